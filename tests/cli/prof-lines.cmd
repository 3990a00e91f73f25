../models/gpt.gdl --emit=plan --profile prof-lines.prof
