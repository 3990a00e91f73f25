../models/gpt.gdl --roundtrip=yes --emit=graph
