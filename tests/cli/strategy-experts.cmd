../models/gpt.gdl --plan strategy-experts.json --emit=plan 
