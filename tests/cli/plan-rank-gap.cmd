../models/gpt.gdl --plan plan-rank-gap.plan --emit=mem
