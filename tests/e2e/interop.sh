#!/bin/bash
# Galvatron's files: what its measurements become, a plan from them, its strategies in and out; and --sweep against planning each value by itself.
. tests/lib.sh
F=tests/galvatron
machine="$F/allreduce_bandwidth_2nodes_2gpus_per_node.json $F/p2p_bandwidth_2nodes_2gpus_per_node.json $F/sp_time_1nodes_2gpus_per_node.json $F/overlap_coefficient.json"
model="$F/computation_profiling_bf16_toy_all.json $F/memory_profiling_bf16_toy_all.json"
device='device toy cuda sm_80; memory 8GB; flops f32 10TFLOP/s bf16 100TFLOP/s; bytes 1TB/s; loops 5T/s'

# ---- the machine ----
"$GV" import $machine "--device=$device" -o "$T/two_nodes.hw" 2>"$T/err" || { cat "$T/err"; fail import; }
[ "$UPDATE" = 0 ] || cp "$T/two_nodes.hw" $F/two_nodes.hw
diff -u $F/two_nodes.hw "$T/two_nodes.hw" || fail "the machine differs"
grep -q 'sp_time_2nodes_2gpus_per_node.json' "$T/err" || fail "the file that is missing is not named: $(cat "$T/err")"
[ "$(wc -l <"$T/err")" = 1 ] || fail "said more: $(cat "$T/err")"
"$GV" tests/models/gpt.gdl --cluster "$T/two_nodes.hw" --emit=plan >"$T/plan" || fail "planning for it"
grep -q '^ranks 4 ' "$T/plan" || fail "a plan for another machine: $(cat "$T/plan")"
"$GV" import $model --layers=4 --hidden=512 --batch=8 --cluster "$T/two_nodes.hw" --memory=2GB >"$T/from_hw" || fail "--cluster"

# ---- a plan from layer costs ----
plan() { "$GV" import $machine $model --layers=4 --hidden=512 --batch=8 "$@" 2>/dev/null || fail "import $*"; }
step() { sed -n 's/^step *\([0-9.]*\) ms.*/\1/p'; }
plan --memory=2GB >"$T/from_json"
diff "$T/from_hw" "$T/from_json" || fail "the .hw plans otherwise than the files it came from"
roomy=$(plan --memory=8GB | step) tight=$(plan --memory=2GB | step)
for limit in 8GB 2GB 1.2GB; do # less memory never makes it faster, nor does a dimension less
	for with in --recompute=none --recompute=full --schedule=gpipe --microbatches=8 --ranks=2; do
		"$GV" import $machine $model --layers=4 --hidden=512 --batch=8 --memory=$limit $with 2>/dev/null | step |
			awk -v best="$(plan --memory=$limit | step)" -v with="$with $limit" '$1 < best { print with ": " $1 " ms, below " best; exit 1 }' ||
			fail "not the best"
	done
done
awk -v a="$roomy" -v b="$tight" 'BEGIN { exit !(a > 0 && a <= b) }' || fail "8GB: $roomy ms, 2GB: $tight ms"

# ---- measured layers as a profile: three layers of 8 samples at 1 ms each, and three times that (B and W) ----
"$GV" import $F/computation_profiling_bf16_toy_all.json --map=block=layertype_0,output=layertype_other -o "$T/toy.prof" || fail "--map"
grep -qx 'layer block : 1:2.2ms 2:4ms 4:7.6ms' "$T/toy.prof" && grep -qx 'layer output : 1:1.5ms 2:2.5ms 4:4.5ms' "$T/toy.prof" || { cat "$T/toy.prof"; fail "the profile differs"; }
printf 'prof 1\nlayer block : 1:1ms 8:8ms\n' >"$T/1.prof"
printf 'prof 1\nlayer block : 1:2ms 8:16ms\n' >"$T/2.prof"
printf 'plan 1\nranks 1\nlayers 0-4 mesh m0\n' >"$T/one.plan"
printf 'plan 1\nranks 2\nmesh m1 = dp:2\nlayers 0-4 mesh m1\n' >"$T/dp.plan"
compute() { "$GV" tests/models/gpt.gdl --set batch=8 --cluster "$T/two_nodes.hw" --plan "$T/$1.plan" --profile "$T/$2.prof" --emit=cost | sed -n 's/^stage 0 .*compute_ns \([0-9]*\).*/\1/p'; }
[ $(($(compute one 2) - $(compute one 1))) = 72000000 ] || fail "one rank: $(compute one 2) - $(compute one 1) ns"
[ $(($(compute dp 2) - $(compute dp 1))) = 36000000 ] || fail "half of the samples: $(compute dp 2) - $(compute dp 1) ns"

# ---- strategies ----
gpt="tests/models/gpt.gdl --set batch=8 --set layers=4 --set seq=12"
plan --memory=2GB --emit=strategy-json >"$T/s.json"
"$GV" $gpt --plan "$T/s.json" --emit=strategy-json >"$T/again.json" || fail "the strategy of the plan"
diff "$T/s.json" "$T/again.json" || fail "strategy -> plan -> strategy"
"$GV" $gpt --plan "$T/s.json" --emit=plan >"$T/s.plan" || fail "the plan of the strategy"
"$GV" $gpt --plan "$T/s.plan" --emit=strategy-json >"$T/again.json" || fail "the strategy of the .plan"
diff "$T/s.json" "$T/again.json" || fail "strategy -> plan -> .plan -> strategy"
"$GV" $gpt --plan "$T/s.json" --emit=mem >"$T/mem" || fail "a strategy does not lower"
"$GV" check $gpt --plan "$T/s.json" >"$T/check" || { cat "$T/check"; fail "a strategy computes something else"; }

# ---- --sweep ----
g="tests/models/gpt.gdl --ranks 2 --memory=850KiB"
"$GV" $g --sweep batch=1..6 >"$T/table" || fail "--sweep"
rows=0
while read -r mark batch ms rest; do
	case $mark in '*' | '~') ;; [0-9]*) rest="$ms $rest" ms=$batch batch=$mark ;; *) continue ;; esac
	rows=$((rows + 1))
	"$GV" $g --set batch=$batch --emit=cost >"$T/cost" 2>"$T/why" || { grep -qF -- "$ms $rest" "$T/why" || fail "batch=$batch: the table says $ms $rest, planning it: $(cat "$T/why")"; continue; }
	awk -v ms="$ms" '$1 == "step_ns" { d = $2 * 1e-6 - ms; if (d < 0) d = -d; exit !(d < 6e-4) }' "$T/cost" || fail "batch=$batch: $ms ms in the table, $(head -1 "$T/cost")"
done <"$T/table"
[ $rows = 6 ] || { cat "$T/table"; fail "$rows rows of 6"; }
best=$(sed -n 's/^sweep  *best is batch=\([0-9]*\).*/\1/p' "$T/table")
awk '$1 == "*" || $1 == "~" { sub(/^. /, "") } NF > 3 && $3 + 0 > most { most = $3 + 0; at = $1 } END { print at }' "$T/table" | sed -n 1p >"$T/most"
[ "$best" = "$(cat "$T/most")" ] || { cat "$T/table"; fail "the best is not the fastest: $(cat "$T/most")"; }
"$GV" $g --sweep batch=1..6 --emit=plan >"$T/swept" 2>/dev/null && "$GV" $g --set batch=$best --emit=plan >"$T/set" && cmp "$T/swept" "$T/set" || fail "--sweep goes on with another plan"
[ "$("$GV" tests/models/gpt.gdl --set layers=1 --sweep batch=1..100000 --memory=32MiB | grep -c '^[*~ ] *[0-9]')" -le 32 ] || fail "more than 32 values"
