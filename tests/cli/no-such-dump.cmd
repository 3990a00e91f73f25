nowhere.gir --emit=graph
