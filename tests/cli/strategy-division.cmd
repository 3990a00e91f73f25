../models/gpt.gdl --plan strategy-division.json --emit=plan 
