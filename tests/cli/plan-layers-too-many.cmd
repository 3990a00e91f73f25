../models/gpt.gdl --plan plan-layers-too-many.plan --emit=mem
