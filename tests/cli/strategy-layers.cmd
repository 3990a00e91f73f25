../models/gpt.gdl --plan strategy-layers.json --emit=plan --set layers=4
