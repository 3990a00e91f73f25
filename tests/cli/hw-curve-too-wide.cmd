../models/gpt.gdl --emit=plan --cluster hw-curve-too-wide.hw
