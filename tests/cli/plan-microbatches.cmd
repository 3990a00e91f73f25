../models/gpt.gdl --plan plan-microbatches.plan --emit=mem
