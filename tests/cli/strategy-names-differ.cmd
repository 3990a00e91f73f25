../models/gpt.gdl --plan strategy-names-differ.json --emit=plan 
