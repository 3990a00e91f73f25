../models/zoo/ones.gdl --emit=mem --ranks 67
