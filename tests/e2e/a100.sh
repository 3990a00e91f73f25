#!/bin/bash
# The bench against Megatron's steps on A100 runs on rows of its form and scores them; and what prices are made of there: a product
# whose rows begin unaligned costs more, so does what the host needs for a launch, a collective in company, a microbatch.
. tests/lib.sh
command -v python3 >/dev/null || skip "no python3"

head="# GPUs,global batch,micro batch,hidden size,attention heads,# layers,sequence length,tensor parallelism,data parallelism,pipeline parallelism,iteration time (ms)"
mkdir "$T/data"
{ echo "$head"; echo "2,8,1,1024,16,12,1024,1,1,2,300"; echo "4,8,2,1024,16,12,1024,2,2,1,100"; echo "2,8,2,1024,16,12,1024,1,1,2,"; } >"$T/data/single_node.csv"
{ echo "Parameters (billion),$head"; echo "18.4,256,1024,8,6144,48,40,2048,8,32,1,9600"; } >"$T/data/multi_node.csv"
python3 tests/bench/a100/bench.py "$GV" "$T/data" "$T/pred.csv" "$T/plot.svg" >"$T/log" || { cat "$T/log"; fail "bench.py"; }
[ "$(wc -l <"$T/pred.csv")" = 4 ] && ! grep -qv '^[0-9][0-9.]*$' "$T/pred.csv" || { cat "$T/pred.csv"; fail "not a time for each of 4 rows"; }
tail -1 "$T/log" | grep -qE '^rows 3 median_error_percent [0-9.]+ tau 1\.0000$' || { cat "$T/log"; fail "the last line"; }
grep -q '</svg>' "$T/plot.svg" || fail "no plot"

cat >"$T/plan" <<-END
	plan 1
	ranks 4 threads 1 microbatches 2
	mesh m1 = dp:2 tp:2
	layers 0-3 mesh m1 zero 0 recompute full
END
# step HW OPTIONS: predicted ns
step() {
	local hw=$1
	shift
	"$GV" tests/bench/a100/gpt.gdl --set batch=8 --set layers=2 --plan "$T/plan" --cluster "$hw" --emit=cost "$@" | sed -n 's/^step_ns //p'
}
hw=models/clusters/a100.hw
base=$(step $hw)
# dearer NAME FROM TO: with that changed in the .hw the step takes longer
dearer() {
	sed "/^  \(launch\|efficiency\)/s/$2/$3/" $hw >"$T/$1.hw"
	! cmp -s $hw "$T/$1.hw" || fail "$1 is not in $hw"
	[ "$(step "$T/$1.hw")" -gt "$base" ] || fail "$1 costs nothing"
}
dearer launch 'launch [0-9.]*us' 'launch 500us'
dearer collective 'collective [0-9.]*' 'collective 0.1'
dearer turn 'turn [0-9.e+]*' 'turn 1e9'
[ "$(step $hw --set vocab=50314)" -gt "$(step $hw --set vocab=50320)" ] || fail "25157 columns a rank are as fast as 25160"
