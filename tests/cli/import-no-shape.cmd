import import-no-shape.json --device='device d cuda; memory 8GB; flops f32 1TFLOP/s; bytes 1TB/s; loops 1T/s'
