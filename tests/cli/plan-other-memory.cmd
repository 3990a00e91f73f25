../models/gpt.gdl --plan plan-other-memory.plan --emit=mem --memory=64KiB
