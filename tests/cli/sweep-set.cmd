../models/gpt.gdl --sweep batch=1..4 --set batch=3 --emit=plan
