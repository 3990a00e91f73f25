../models/gpt.gdl --plan plan-shares.plan --emit=mem
