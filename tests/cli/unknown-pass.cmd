../models/gpt.gdl --stop-after=magic
