../models/gpt.gdl --plan strategy-unsaid.plan --emit=strategy-json
