#!/bin/bash
# Emitted programs and the runtime under address and undefined-behaviour sanitizers: training, validation, sampling, a checkpoint
# and a resume. One of them on two ranks, on both transports, with all that they exchange: ZeRO 3, tp, a reshard between them.
. tests/lib.sh
text
sanitized='-O1 -g -march=native -fsanitize=address,undefined -fno-sanitize-recover=undefined'
for model in gpt llama; do
	"$GV" tests/models/$model.gdl -o "$T/$model" --quiet --microbatches=2 || fail "$model"
	make -s -C "$T/$model" OPT="$sanitized" || fail "make"
	for steps in 2 4; do
		"$T/$model/stage_0" --data "$T/text" --val-data "$T/text" --steps $steps --sample 3 --checkpoint "$T/$model.ckpt" \
			$([ $steps = 4 ] && echo --resume "$T/$model.ckpt") --quiet >"$T/log" 2>&1 || { tail -30 "$T/log"; fail "$model, $steps steps"; }
	done
done

. tests/mpi.sh
cat >"$T/plan" <<'END'
plan 1
ranks 2 threads 1 microbatches 2
mesh m1 = dp:2
mesh m2 = tp:2
layers 0-2 mesh m1 zero 3 recompute full
layers 3-4 mesh m2
END
export ASAN_OPTIONS=detect_leaks=0 # MPI leaves thousands of objects, from libraries it has unloaded by then
"$GV" tests/models/gpt.gdl -o "$T/two" --quiet --plan "$T/plan" || fail "two ranks"
make -s -C "$T/two" OPT="$sanitized" || fail "make"
for transport in mpi window; do
	for steps in 2 4; do
		GVRT_TRANSPORT=$transport mpi 2 "$T/two/stage_0" --data "$T/text" --val-data "$T/text" --steps $steps --checkpoint "$T/$transport.ckpt" \
			$([ $steps = 4 ] && echo --resume "$T/$transport.ckpt") --quiet >"$T/log" 2>&1 || { tail -30 "$T/log"; fail "two ranks, $transport, $steps steps"; }
	done
done
