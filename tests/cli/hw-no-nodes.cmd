../models/gpt.gdl --emit=plan --cluster hw-no-nodes.hw
