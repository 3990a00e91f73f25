../models/gpt.gdl --emit=plan --cluster hw-plan-ranks.hw --set batch=16 --plan hw-plan-ranks.plan
