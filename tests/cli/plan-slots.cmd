../models/gpt.gdl --plan plan-slots.plan --emit=mem
