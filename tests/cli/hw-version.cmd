../models/gpt.gdl --emit=plan --cluster hw-version.hw
