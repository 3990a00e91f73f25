../models/gpt.gdl --emit=mem --plan plan-other-limits.plan --stages 2 --max-tp 1 --max-zero 0
