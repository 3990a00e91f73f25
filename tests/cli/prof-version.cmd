../models/gpt.gdl --emit=plan --profile prof-version.prof
