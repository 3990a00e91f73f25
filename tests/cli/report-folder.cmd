../models/gpt.gdl --report .
