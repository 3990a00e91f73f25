../models/gpt.gdl --plan plan-other-model.plan --emit=mem
