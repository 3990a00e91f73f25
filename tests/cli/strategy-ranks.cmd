../models/gpt.gdl --plan strategy-ranks.json --emit=plan --ranks 4
