../models/gpt.gdl --plan strategy-missing.json --emit=plan 
