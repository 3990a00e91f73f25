../models/gpt.gdl --plan plan-degrees.plan --emit=mem
