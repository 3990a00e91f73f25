#!/bin/bash
# gvprof: what it measures is all that programs run; it is kept, gone on with after an interrupt, and never another's file that
# is overwritten; a program that times itself trains like the one that does not. Nothing here depends on how long anything takes.
. tests/lib.sh
text
PROF=${GV%/*}/gvprof
model="models/demo.gdl"
args="--set layers=3 --set embed=32 --set heads=2 --set seq=32 --set ffn=48 --set batch=1"
export OPT=-O1 # of what is built: quickly

# Ordinary programs have nothing of it; the losses of one that times itself are the same bits.
# shellcheck disable=SC2086
compile plain $model $args
# shellcheck disable=SC2086
compile timed $model $args --instrument
grep -q gvrt_mark "$T/plain/src/stage_0.c" && fail "an ordinary program has marks"
grep -q gvrt_mark "$T/timed/src/stage_0.c" || fail "--instrument marks nothing"
losses plain --steps 6 >"$T/plain.losses"
GVRT_METERS=$T/meters losses timed --steps 6 >"$T/timed.losses"
cmp "$T/plain.losses" "$T/timed.losses" || fail "a program that times itself trains differently"
[ "$(tail -1 "$T/meters.0")" = end ] || fail "what it measured is cut off"

prof() { # NAME RANKS [options]: becomes gvprof, quickly
	name=$1 n=$2
	shift 2
	# shellcheck disable=SC2086
	exec "$PROF" $model $args --ranks "$n" --seconds=0.02 -o "$T/$name" "$@" >"$T/$name.out" 2>"$T/$name.err"
}
missing() { # NAME RANKS: kernels that the profile lacks
	# shellcheck disable=SC2086
	"$GV" $model $args --short --threads=1 --ranks "$2" --emit=measure --cluster "$T/$1.hw" --profile "$T/$1.prof" | sed -n 's/^kernels .* missing //p'
}

# An interrupt loses the program at hand; what is there is whole, and kept.
ranks=1
prof m "$ranks" &
pid=$!
for _ in $(seq 600); do
	[ -s "$T/m.prof" ] && break
	kill -0 $pid 2>/dev/null || break
	sleep 0.05
done
kill -TERM $pid 2>/dev/null || true
wait $pid || true
[ -s "$T/m.prof" ] || { cat "$T/m.out" "$T/m.err"; fail "no profile"; }
some=$(missing m "$ranks")
times=$(grep -c '^time' "$T/m.prof")
(prof m "$ranks") || { cat "$T/m.err"; fail "gvprof after an interrupt"; }
[ "$(missing m "$ranks")" = 0 ] || fail "$(missing m "$ranks") kernels are not measured"
[ "$some" = 0 ] || grep -q "to be measured" "$T/m.out" || fail "it does not say what it measures"
[ "$(grep -c '^time' "$T/m.prof")" -ge "$times" ] || fail "what was measured is lost"
[ ! -e "$T/m.work" ] || fail "the programs are left behind"

# The second run measures nothing and changes nothing.
cp "$T/m.prof" "$T/before.prof"
cp "$T/m.hw" "$T/before.hw"
(prof m "$ranks") || { cat "$T/m.err"; fail "gvprof for the second time"; }
grep -q ' 0 to be measured' "$T/m.out" || { cat "$T/m.out"; fail "it measures what it has"; }
cmp "$T/m.prof" "$T/before.prof" && cmp "$T/m.hw" "$T/before.hw" || fail "the second run changes a file"

# Both are read, and a plan for the cluster found with them.
# shellcheck disable=SC2086
"$GV" $model $args --cluster "$T/m.hw" --profile "$T/m.prof" --emit=plan >"$T/plan" || fail "the files are not read"
grep -q "^ranks $ranks " "$T/plan" || { cat "$T/plan"; fail "the plan is not for the cluster"; }

# What a plan needs, in its own program, of several ranks; another model adds to the files.
if command -v mpirun >/dev/null; then
	printf 'plan 1\nmodel demo\nranks 2 threads 1 microbatches 1 schedule 1f1b\nmesh m0 = mb\nmesh m1 = dp:2\nstage 0 layers 0-4 ranks 0-1\nlayers 0-4 mesh m1 zero 1\n' >"$T/dp.plan"
	args="$args --set=batch=2"
	(prof p 2 --plan "$T/dp.plan") || { cat "$T/p.err"; fail "gvprof --plan"; }
	# shellcheck disable=SC2086
	"$GV" $model $args --plan "$T/dp.plan" --emit=measure --cluster "$T/p.hw" --profile "$T/p.prof" | grep -q 'missing 0$' || fail "a plan's kernels are not measured"
	# shellcheck disable=SC2086
	"$GV" $model $args --plan "$T/dp.plan" --emit=cost --cluster "$T/p.hw" --profile "$T/p.prof" >"$T/cost" || fail "--emit=cost"
	grep -q '^kernels_between 0$' "$T/cost" && grep -q '^kernels_roofline 0$' "$T/cost" || { cat "$T/cost"; fail "a measured plan has kernels without a time"; }
	grep -q '^curve all_reduce' "$T/p.hw" && grep -q '^curve message' "$T/p.hw" || fail "there are no curves"
fi

# Files of others stay.
echo "prof 1" >"$T/other.prof"
! (prof other 1) || fail "it overwrites what it did not write"
grep -q "not written by gvprof" "$T/other.err" || { cat "$T/other.err"; fail "it does not say why"; }
[ "$(cat "$T/other.prof")" = "prof 1" ] || fail "it overwrites what it did not write"
