../models/gpt.gdl --plan plan-sp-indivisible.plan --emit=mem
