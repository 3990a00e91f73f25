../models/gpt.gdl --plan plan-ranks-too-many.plan --emit=mem
