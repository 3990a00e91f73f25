../models/gpt.gdl --emit=graph --set heads=4
