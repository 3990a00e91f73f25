../models/gpt.gdl --emit=mem --schedule=2f2b
