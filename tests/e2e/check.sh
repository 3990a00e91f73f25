#!/bin/bash
# Plans: searched for many ranks, printed, read back, checked against one rank on a small copy of the model.
. tests/lib.sh
passes() { # FILE OPTIONS: check must say PASS twice
	"$GV" check "$@" >"$T/out" 2>&1 || { cat "$T/out"; fail "galvatronc check $*"; }
	[ "$(grep -c ^PASS "$T/out")" = 2 ] || { cat "$T/out"; fail "galvatronc check $*: not two runs"; }
}
for model in gpt llama; do
	file=tests/models/$model.gdl
	for ranks in 2 3 4 6; do
		"$GV" $file --set layers=5 --ranks $ranks --emit=plan >"$T/plan" || fail "$model on $ranks ranks"
		"$GV" $file --set layers=5 --plan "$T/plan" --emit=plan | cmp - "$T/plan" || fail "$model on $ranks ranks: the plan does not print as it was read"
		passes $file --set layers=5 --plan "$T/plan"
	done
done

# By hand: unequal stages, two meshes in one stage, padded axes, ZeRO, an odd pipeline.
cat >"$T/plan" <<'END'
plan 1
model gpt
ranks 6 microbatches 3 schedule 1f1b
mesh m1 = dp:2
mesh m2 = tp:2
stage 0 layers 0-3 ranks 0-1
stage 1 layers 4-5 ranks 2-3
stage 2 layers 6-9 ranks 4-5
layers 0-1 mesh m1 zero 3 recompute full
layers 2-5 mesh m2 recompute selective
layers 6-9 mesh m1 zero 2
END
passes tests/models/gpt.gdl --set layers=8 --plan "$T/plan"
grep -q "layers 8 -> " "$T/out" || fail "no layers were left out: $(head -1 "$T/out")"
sed 's/1f1b/gpipe/' "$T/plan" >"$T/gpipe"
passes tests/models/gpt.gdl --set layers=8 --plan "$T/gpipe"

# The same plan for a real model: nothing of it is run, all is made small.
"$GV" models/gpt2.gdl --set batch=32 --ranks 4 --memory=2GiB --emit=plan >"$T/plan" || fail "gpt2"
passes models/gpt2.gdl --set batch=32 --plan "$T/plan"
grep -q "embed 768 -> " "$T/out" || fail "gpt2 was not made small: $(head -1 "$T/out")"

# The limit is kept: what the search says, the arena is.
for limit in 1GiB 700MiB; do
	"$GV" models/gpt2.gdl --set batch=32 --ranks 4 --memory=$limit --emit=mem >"$T/mem" || fail "gpt2 in $limit"
	max=$(numfmt --from=auto "${limit%B}")
	awk -v max="$max" '$1 == "arena" { n++; if ($2 > max) { print "an arena of " $2 " in " max; bad = 1 } } END { exit bad || !n }' "$T/mem" || fail "gpt2 in $limit"
done
"$GV" models/gpt2.gdl --set batch=32 --ranks 4 --memory=50MiB --emit=plan >"$T/out" 2>&1 && fail "50 MiB are enough for gpt2"
grep -q "no plan fits the memory: the smallest takes .* a rank" "$T/out" || { cat "$T/out"; fail "not said: no plan fits"; }

# The tree says why a branch was cut, and a strategy.
"$GV" tests/models/gpt.gdl --ranks 4 --explain=all --emit=plan >"$T/out" || fail "--explain"
for reason in "not better by its bound" "at least" ", chosen$" "simulated" "^bound .* no plan takes less than" "^worth "; do
	grep -q "$reason" "$T/out" || { cat "$T/out"; fail "--explain does not say '$reason'"; }
done
"$GV" tests/models/gpt.gdl --ranks auto --explain --emit=plan | grep -q "predicted to take 1 rank .* chosen, of" || fail "--ranks auto does not say what it compared"
