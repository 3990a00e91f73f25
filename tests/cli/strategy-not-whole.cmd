../models/gpt.gdl --plan strategy-not-whole.json --emit=plan 
