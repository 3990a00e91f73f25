../models/gpt.gdl --plan plan-layer-types.plan --emit=mem
