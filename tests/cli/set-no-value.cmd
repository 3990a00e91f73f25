../models/gpt.gdl --emit=graph --set heads
