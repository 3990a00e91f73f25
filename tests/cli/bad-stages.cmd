../models/gpt.gdl --emit=plan --ranks=2 --stages=3
