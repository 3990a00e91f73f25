../models/gpt.gdl --emit=mem --memory=lots
