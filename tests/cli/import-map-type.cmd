import ../galvatron/computation_profiling_bf16_toy_all.json --map=block=layertype_7
