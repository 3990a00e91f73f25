../models/gpt.gdl --sweep batch=0..4 --emit=plan
