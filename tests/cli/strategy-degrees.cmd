../models/gpt.gdl --plan strategy-degrees.json --emit=plan 
