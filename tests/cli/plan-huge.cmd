../models/gpt.gdl --plan plan-huge.plan --emit=mem
