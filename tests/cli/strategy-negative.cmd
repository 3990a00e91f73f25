../models/gpt.gdl --plan strategy-negative.json --emit=plan 
