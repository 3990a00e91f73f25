../models/gpt.gdl --plan plan-layer-twice.plan --emit=mem
