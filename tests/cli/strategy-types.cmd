../models/gpt.gdl --plan strategy-types.json --emit=plan 
