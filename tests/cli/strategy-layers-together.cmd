../models/gpt.gdl --plan strategy-layers-together.json --emit=plan 
