../models/gpt.gdl -o /nonexistent --ranks 1 --cluster hw-emit.hw
