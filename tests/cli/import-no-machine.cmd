import ../galvatron/computation_profiling_bf16_toy_all.json ../galvatron/memory_profiling_bf16_toy_all.json --layers=4 --batch=2 --memory=1GB
