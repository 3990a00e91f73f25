../models/gpt.gdl --plan plan-mesh-twice.plan --emit=mem
