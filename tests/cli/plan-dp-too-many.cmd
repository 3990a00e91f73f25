../models/gpt.gdl --plan plan-dp-too-many.plan --emit=mem
