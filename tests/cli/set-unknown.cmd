../models/gpt.gdl --emit=graph --set embeds=36
