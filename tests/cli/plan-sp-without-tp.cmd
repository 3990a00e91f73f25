../models/gpt.gdl --plan plan-sp-without-tp.plan --emit=mem
