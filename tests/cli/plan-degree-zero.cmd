../models/gpt.gdl --plan plan-degree-zero.plan --emit=mem
