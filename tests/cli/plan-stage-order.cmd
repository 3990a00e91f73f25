../models/gpt.gdl --plan plan-stage-order.plan --emit=mem
