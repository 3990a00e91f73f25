../models/gpt.gdl --emit=mem --recompute=some
