dump.gir --set seq=4
