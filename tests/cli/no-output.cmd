../models/gpt.gdl
