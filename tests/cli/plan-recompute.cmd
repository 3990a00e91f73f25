../models/gpt.gdl --plan plan-recompute.plan --emit=mem
