../models/gpt.gdl --plan strategy-batch.json --emit=plan 
