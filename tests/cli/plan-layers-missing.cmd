../models/gpt.gdl --plan plan-layers-missing.plan --emit=mem
