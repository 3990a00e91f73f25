../models/gpt.gdl --emit=graph --set seq=0
