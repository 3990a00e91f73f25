#!/bin/bash
# The emitted program equals the interpreter, in both precisions, with several microbatches, under every recompute mode,
# and at every level of the IR: loss and gradient norm of four training steps.
. tests/lib.sh
text
for model in gpt llama; do
	file=tests/models/$model.gdl
	interpreted $file --precision=f64 --steps=4 --stop-after=optimizer >"$T/train"
	# level graph has no update: the loss of its only step, and the norm column of the other
	interpreted $file --precision=f64 --steps=1 --stop-after=simplify | sed "s/\$/ $(awk '{ print $4; exit }' "$T/train")/" >"$T/graph"
	head -1 "$T/train" >"$T/first"
	agree "$T/graph" "$T/first" 1e-13
	interpreted $file --precision=f64 --steps=4 --microbatches=3 >"$T/mem3"
	interpreted $file --precision=f64 --steps=4 --recompute=full >"$T/full"
	interpreted $file --precision=f64 --steps=4 --recompute=selective >"$T/selective"
	for other in mem3 full selective; do agree "$T/$other" "$T/train" 1e-12; done
	for precision in f64 f32; do
		[ $precision = f64 ] && tol=1e-11 || tol=2e-5
		i=0
		for options in "" "--microbatches=2" "--recompute=selective" "--recompute=full --microbatches=6"; do
			i=$((i + 1))
			compile $model-$precision-$i $file --precision=$precision $options
			losses $model-$precision-$i --steps 4 >"$T/out"
			agree "$T/out" "$T/train" $tol
		done
	done
done
