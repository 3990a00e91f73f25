#!/bin/bash
# Emitted source does not grow with layers or microbatches; GPT-3 175B compiles from GDL to C like a small one, and for 1,024
# ranks, plan and proof included, in seconds.
. tests/lib.sh
functions() { grep -cE '^[a-z].*\(.*\)?$|^[a-z_]+\(' "$T/$1/src/stage_0.c"; }
emit() { local n=$1; shift; "$GV" "$@" --memory=100TB -o "$T/$n" --quiet || fail "$*"; }
emit small models/gpt2.gdl --set batch=8
emit xl models/gpt2.gdl --set batch=8 --set layers=48 --set embed=1600 --set heads=25
emit many models/gpt2.gdl --set batch=64 --microbatches=32
emit gpt3 models/gpt2.gdl --set batch=8 --set layers=96 --set embed=12288 --set heads=96 --set seq=2048
n=$(functions small)
[ "$n" -gt 5 ] || fail "only $n functions found"
for other in xl many gpt3; do
	[ "$(functions $other)" = "$n" ] || fail "$other has $(functions $other) functions, 124M has $n"
	a=$(wc -l <"$T/small/src/stage_0.c") b=$(wc -l <"$T/$other/src/stage_0.c")
	[ "$b" -le $((a + a / 10)) ] || fail "$other has $b lines, 124M has $a"
done

# Planned, proven and emitted in 30 s of one core and 2 GiB; the search lowers layers no oftener than it must.
many() { # memory of a rank, most lowerings
	local t
	TIMEFORMAT=%U
	t=$( { time (ulimit -v 2097152; "$GV" models/gpt2.gdl --set layers=96 --set embed=12288 --set heads=96 --set seq=2048 \
		--set batch=1536 --ranks 1024 --memory="$1" --explain -o "$T/ranks" >"$T/explain" 2>"$T/err"); } 2>&1 ) || fail "1,024 ranks of $1: $(cat "$T/err")"
	awk -v t="$t" 'BEGIN { exit t > 30 }' || fail "1,024 ranks of $1 took $t s"
	n=$(sed -n 's/^tree .* \([0-9]*\) lowerings.*/\1/p' "$T/explain")
	[ "${n:-99999}" -le "$2" ] || fail "1,024 ranks of $1: lowered ${n:-?} times, not at most $2"
	grep -q "^memory\|a rank: parameters" "$T/explain" || fail "1,024 ranks of $1: no plan is printed"
}
many 80GiB 400
many 8GiB 400
