../models/gpt.gdl --plan strategy-nan.json --emit=plan 
