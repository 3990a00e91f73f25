../models/gpt.gdl --emit=plan --cluster hw-curves.hw
