import import-no-device_1nodes_2gpus_per_node.json --device='device d cuda; memory 8GB; flops f32 fast'
