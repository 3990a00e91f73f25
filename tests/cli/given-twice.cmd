../models/gpt.gdl --emit=graph --emit=mem
