import ../galvatron/computation_profiling_bf16_toy_all.json --layers=4,-1 --batch=2
