../models/gpt.gdl --emit=plan --max-tp=0
