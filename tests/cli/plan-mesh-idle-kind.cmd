../models/gpt.gdl --plan plan-mesh-idle-kind.plan --emit=mem
