../models/gpt.gdl --plan strategy-deep.json --emit=plan 
