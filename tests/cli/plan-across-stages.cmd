../models/gpt.gdl --plan plan-across-stages.plan --emit=mem
