../models/gpt.gdl --plan plan-mesh-kind.plan --emit=mem
