#!/bin/bash
# Emitted programs and the runtime under address and undefined-behaviour sanitizers: training, validation, sampling, a checkpoint
# and a resume.
. tests/lib.sh
text
for model in gpt llama; do
	"$GV" tests/models/$model.gdl -o "$T/$model" --quiet --microbatches=2 || fail "$model"
	make -s -C "$T/$model" OPT='-O1 -g -march=native -fsanitize=address,undefined -fno-sanitize-recover=undefined' || fail "make"
	for steps in 2 4; do
		"$T/$model/stage_0" --data "$T/text" --val-data "$T/text" --steps $steps --sample 3 --checkpoint "$T/$model.ckpt" \
			$([ $steps = 4 ] && echo --resume "$T/$model.ckpt") --quiet >"$T/log" 2>&1 || { tail -30 "$T/log"; fail "$model, $steps steps"; }
	done
done
