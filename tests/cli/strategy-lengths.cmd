../models/gpt.gdl --plan strategy-lengths.json --emit=plan 
