import --layers=4 --batch=2
