../models/gpt.gdl --emit=plan --cluster hw-links.hw
