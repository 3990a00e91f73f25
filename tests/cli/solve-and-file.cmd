two.gdl --solve solve-empty.solve
