nowhere.gdl --emit=graph
