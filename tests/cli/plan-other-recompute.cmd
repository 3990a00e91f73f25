../models/gpt.gdl --plan plan-other-recompute.plan --emit=mem --recompute=full
