../models/gpt.gdl --emit=mem --microbatches=4
