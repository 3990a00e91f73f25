../models/gpt.gdl --plan strategy-huge-whole.json --emit=plan 
