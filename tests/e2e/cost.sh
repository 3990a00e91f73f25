#!/bin/bash
# What a step is predicted to take: --emit=cost, --trace, the summary; and a step of 131,072 ranks in seconds.
. tests/lib.sh
cat > "$T/p.plan" <<'P'
plan 1
ranks 8 threads 1 microbatches 4 schedule 1f1b
mesh m0 = mb
mesh m1 = dp:2 tp:2
stage 0 layers 0-2 ranks 0-3
stage 1 layers 3-4 ranks 4-7
layers 0-4 mesh m1 zero 1 recompute none
P
model="tests/models/gpt.gdl --set batch=8 --set heads=4 --set embed=28"
cost() { "$GV" $model --plan "$T/p.plan" --emit=cost "$@"; }

# twice the same bytes; what scripts read is there
cost > "$T/one" && cost --trace "$T/one.json" > "$T/two" || fail "no cost"
cmp "$T/one" "$T/two" || fail "the cost is another the second time"
[ "$(head -1 "$T/one" | cut -d' ' -f1)" = step_ns ] || fail "step_ns is not first"
for key in compute_ns tp_ns dp_ns pp_ns update_ns idle_ns arena_bytes memory_bytes; do
	[ "$(grep -c "^stage [01] .* $key [0-9]" "$T/one")" = 2 ] || fail "no $key of each stage"
done
grep -q '^kernels_roofline [1-9]' "$T/one" || fail "no kernel was priced"
cost --trace "$T/two.json" > /dev/null
cmp "$T/one.json" "$T/two.json" || fail "the trace is another the second time"
if command -v python3 > /dev/null; then python3 -m json.tool "$T/one.json" > /dev/null || fail "the trace is no JSON"; fi

# the arena is level mem's, and the summary says the same time
for k in 0 1; do
	want=$("$GV" $model --plan "$T/p.plan" --emit=mem | awk -v k=$k '$1 == "memory" { here = $2 == k } here && $1 == "arena" { print $2 }')
	grep -q "^stage $k .* arena_bytes $want " "$T/one" || fail "stage $k: the arena is not $want"
done
"$GV" $model --plan "$T/p.plan" -o "$T/out" > "$T/summary" || fail "no programs"
grep -q '^step  *predicted .* the busiest stage is' "$T/summary" || fail "the summary does not say what a step takes"

# on a cluster of another kind, and a faster one is no slower
sed 's/near 3us 450GB/near 3us 45GB/' models/clusters/h100.hw > "$T/slow.hw"
fast=$(cost --cluster models/clusters/h100.hw | awk '/^step_ns/ { print $2 }')
slow=$(cost --cluster "$T/slow.hw" | awk '/^step_ns/ { print $2 }')
[ "$fast" -gt 0 ] && [ "$fast" -lt "$slow" ] || fail "$fast ns, with slow links $slow"

# GPT-3 on 131,072 ranks: 64 stages of 2,048, 512 microbatches; one stage of two meshes, whose tied embedding tells all ranks apart
awk 'BEGIN {
	print "plan 1\nranks 131072 threads all microbatches 512 schedule 1f1b\nmesh m0 = mb\nmesh m1 = dp:256 tp:8"
	for (s = 0; s < 64; s++) {
		end = int(98 * (s + 1) / 64) - 1
		print "stage " s " layers " (at < end ? at "-" end : at + 0) " ranks " s * 2048 "-" s * 2048 + 2047
		at = end + 1
	}
	print "layers 0-97 mesh m1 zero 1 recompute full megatron_sp" }' > "$T/stages.plan"
cat > "$T/meshes.plan" <<'P'
plan 1
ranks 131072 threads all microbatches 8 schedule 1f1b
mesh m0 = mb
mesh m1 = dp:16384 tp:8
mesh m2 = dp:32768 tp:4
stage 0 layers 0-97 ranks 0-131071
layers 0-40 mesh m1 zero 3 recompute full
layers 41-97 mesh m2 zero 1 recompute full
P
sed 's/node 2048 x/node 16384 x/' models/clusters/h100.hw > "$T/big.hw"
cat > "$T/usage.py" <<'P'
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=open(sys.argv[0] + ".out", "w"))
u = resource.getrusage(resource.RUSAGE_CHILDREN)
print("%.2f %d" % (u.ru_utime + u.ru_stime, u.ru_maxrss))
P
command -v python3 > /dev/null || { echo "no python3 to measure with"; exit 77; }
big() { # PLAN BATCH [options]
	local plan=$1 batch=$2 used
	shift 2
	used=$(python3 "$T/usage.py" "$GV" models/gpt2.gdl --set layers=96 --set embed=12288 --set heads=96 --set seq=2048 \
		--set batch="$batch" "$@" --plan "$T/$plan.plan" --emit=cost) || fail "131,072 ranks, $plan: no cost"
	echo "131,072 ranks, $plan ${1:+on H100s}: $used (seconds of CPU, KiB)"
	# the compiler may be built without optimisation, or share its core: twice what is promised
	awk -v x="$used" 'BEGIN { split(x, u, " "); exit !(u[1] < 4 && u[2] < 1048576) }' || fail "131,072 ranks, $plan: $used"
}
big stages 131072
big stages 131072 --cluster "$T/big.hw"
big meshes 262144 --cluster "$T/big.hw"
