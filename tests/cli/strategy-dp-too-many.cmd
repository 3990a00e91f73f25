../models/gpt.gdl --plan strategy-dp-too-many.json --emit=plan 
