#!/bin/bash
# Emitted source does not grow with layers or microbatches; GPT-3 175B compiles from GDL to C like a small one.
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
