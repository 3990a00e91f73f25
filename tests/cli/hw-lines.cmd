../models/gpt.gdl --emit=plan --cluster hw-lines.hw
