../models/gpt.gdl --plan plan-words.plan --emit=mem
