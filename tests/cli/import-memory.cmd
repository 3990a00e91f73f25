import import-memory.json --layers=1 --batch=1 --memory=1GB
