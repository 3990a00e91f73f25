../models/gpt.gdl --emit=mem --plan two.plan --schedule gpipe
