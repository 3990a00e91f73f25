../models/gpt.gdl --plan strategy-no-json.json --emit=plan 
