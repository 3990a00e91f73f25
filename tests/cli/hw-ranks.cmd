../models/gpt.gdl --emit=plan --ranks 9 --cluster hw-ranks.hw
