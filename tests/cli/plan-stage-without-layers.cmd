../models/gpt.gdl --plan plan-stage-without-layers.plan --emit=mem
