#!/bin/bash
# The planned peak is what the program asks for: the manifest's number is the arena the program maps; no allocation after the
# first step (an interposer counts); dead buffers filled with NaN change no loss; the arena's height is at most 1.02 times the
# most bytes alive at once, on the shipped models at full size.
. tests/lib.sh
text
cc -std=gnu11 -O1 -fno-builtin -shared -fPIC -o "$T/count.so" tests/runtime/toys/count_malloc.c -ldl
allocations() { # of a run of N steps
	LD_PRELOAD="$T/count.so" COUNT_MALLOC="$T/count" "$T/p/stage_0" --data "$T/text" --steps "$1" --quiet >/dev/null 2>"$T/log" ||
		{ cat "$T/log"; fail "run of $1 steps"; }
	cat "$T/count"
}
for model in gpt llama; do
	for options in "" "--microbatches=3 --recompute=full" "--recompute=selective"; do
		rm -rf "${T:?}/p"
		compile p tests/models/$model.gdl $options
		losses p --steps 6 >"$T/plain"
		GVRT_POISON=1 losses p --steps 6 >"$T/poisoned"
		cmp "$T/plain" "$T/poisoned" || fail "$model $options: a buffer that the plan calls dead is read"
		planned=$("$GV" tests/models/$model.gdl $options --emit=mem | sed -n 's/.*arena \([0-9]*\).*/\1/p' | head -1)
		[ -n "$planned" ] || fail "no arena in the dump"
		grep -q "\"arena\": *$planned[,}]" "$T/p.json" || { head -1 "$T/p.json"; fail "$model $options: planned $planned bytes"; }
		one=$(allocations 1) many=$(allocations 9)
		[ "$one" -gt 0 ] && [ "$one" = "$many" ] || fail "$model $options: $one allocations in 1 step, $many in 9"
	done
done
for model in gpt2 llama3 bert t5 vit demo; do
	for mode in none selective full; do
		"$GV" models/$model.gdl --set batch=8 --memory=400TB --microbatches=1 --recompute=$mode --emit=mem | awk -v m="$model, recompute $mode" '
			/^ *arena/ { a = $2; l = $4 }
			END { printf "%s: arena %.0f, live %.0f: %.4f\n", m, a, l, a / l; exit !(a > 0 && l > 0 && a <= 1.02 * l) }' || fail "arena of $model"
	done
done
