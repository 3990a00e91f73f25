dump.gir --set seq=4 --emit=gir
