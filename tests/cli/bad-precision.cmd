../models/gpt.gdl --emit=graph --precision=f8
