../models/gpt.gdl --emit=plan --profile prof-twice.prof
