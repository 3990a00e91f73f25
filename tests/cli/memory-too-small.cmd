../models/gpt.gdl --emit=mem --memory=100K
