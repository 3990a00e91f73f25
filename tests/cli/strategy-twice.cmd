../models/gpt.gdl --plan strategy-twice.json --emit=plan 
