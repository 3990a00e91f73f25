../models/gpt.gdl --sweep batch=8..2 --emit=plan
