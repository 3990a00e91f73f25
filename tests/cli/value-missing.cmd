../models/gpt.gdl --emit
