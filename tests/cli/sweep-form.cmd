../models/gpt.gdl --sweep batch=8 --emit=plan
