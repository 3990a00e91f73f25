../models/gpt.gdl --emit=banana
