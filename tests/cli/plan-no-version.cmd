../models/gpt.gdl --plan plan-no-version.plan --emit=mem
