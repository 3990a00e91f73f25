../models/gpt.gdl --emit=mem --cluster h100.hw
