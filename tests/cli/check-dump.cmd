check dump.gir --plan nowhere.plan
