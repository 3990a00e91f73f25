../models/gpt.gdl --emit=mem --target=tpu
