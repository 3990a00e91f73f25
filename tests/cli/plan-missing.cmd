../models/gpt.gdl --emit=mem --plan nowhere.plan
