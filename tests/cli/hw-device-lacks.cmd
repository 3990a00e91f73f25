../models/gpt.gdl --emit=plan --cluster hw-device-lacks.hw
