../models/gpt.gdl --emit=plan --cluster hw-mixed-targets.hw
