../models/gpt.gdl --sweep batch=1..4 --plan two.plan --emit=plan
