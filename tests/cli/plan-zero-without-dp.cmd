../models/gpt.gdl --plan plan-zero-without-dp.plan --emit=mem
