a.gdl b.gdl
