../models --emit=graph
