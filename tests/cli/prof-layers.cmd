../models/gpt.gdl --emit=plan --profile prof-layers.prof
