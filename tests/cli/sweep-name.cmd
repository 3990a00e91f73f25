../models/gpt.gdl --sweep bach=3..4 --emit=plan
