../models/gpt.gdl --plan strategy-no-world.json --emit=plan 
