../models/gpt.gdl --plan strategy-huge.json --emit=plan 
