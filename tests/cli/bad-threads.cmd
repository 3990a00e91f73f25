../models/gpt.gdl --emit=mem --threads=-1
