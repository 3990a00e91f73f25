../models/gpt.gdl --plan plan-mesh-below.plan --emit=mem
