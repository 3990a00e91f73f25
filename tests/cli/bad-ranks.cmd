../models/gpt.gdl --emit=mem --ranks=some
