../models/gpt.gdl --emit=mem --plan two.plan --ranks 3
