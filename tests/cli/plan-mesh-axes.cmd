../models/gpt.gdl --plan plan-mesh-axes.plan --emit=mem
