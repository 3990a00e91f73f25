../models/gpt.gdl --emit=plan --ranks 1 --target host --cluster hw-target.hw
