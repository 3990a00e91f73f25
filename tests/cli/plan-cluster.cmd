../models/gpt.gdl --emit=mem --cluster hw-ranks.hw --plan plan-cluster.plan
