../models/gpt.gdl --emit=graph --set seq=99999999999999999999
