../models/gpt.gdl --plan plan-layer-left-out.plan --emit=mem
