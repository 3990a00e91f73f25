../models/gpt.gdl --emit=plan --max-zero=4
