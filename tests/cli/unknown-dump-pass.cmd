../models/gpt.gdl -d magic --emit=graph
