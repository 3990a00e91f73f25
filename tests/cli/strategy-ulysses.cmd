../models/gpt.gdl --plan strategy-ulysses.json --emit=plan 
