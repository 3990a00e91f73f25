#!/bin/bash
# A run goes on under another plan: 10 steps under one of six plans (one rank; dp; tp; pp; dp with ZeRO-3; pp, dp and tp over two
# meshes), 10 more under another, float64, clipping active: losses and parameters are those of 20 steps on one rank within 1e-9
# (CHECK_ALL=1: all 36 pairs, else 8). Under the same plan the checkpoint at the end has the bytes of a run that never stopped, also
# where every process was killed with SIGKILL at some step.
. tests/lib.sh
. tests/mpi.sh
text
export OPT=-O1 GVRT_PEAK=0 OMP_NUM_THREADS=1
model="tests/models/gpt.gdl --set layers=4 --set batch=8 --precision=f64"
compare=$BUILD/tests/plans/compare

# plan NAME RANKS MICROBATCHES, the rest on standard input
plan() { { printf 'plan 1\nmodel gpt\nranks %s threads 1 microbatches %s schedule 1f1b\nmesh m0 = mb\n' "$2" "$3"; cat; } >"$T/$1.plan"; }
plan one 1 1 <<-END
	stage 0 layers 0-5 ranks 0
	layers 0-5 mesh m0
END
plan dp 2 2 <<-END
	mesh m1 = dp:2
	stage 0 layers 0-5 ranks 0-1
	layers 0-5 mesh m1
END
plan tp 2 1 <<-END
	mesh m1 = tp:2
	stage 0 layers 0-5 ranks 0-1
	layers 0-5 mesh m1
END
plan pp 2 4 <<-END
	stage 0 layers 0-2 ranks 0
	stage 1 layers 3-5 ranks 1
	layers 0-5 mesh m0
END
plan zero 3 1 <<-END
	mesh m1 = dp:3
	stage 0 layers 0-5 ranks 0-2
	layers 0-5 mesh m1 zero 3
END
plan all 6 2 <<-END
	mesh m1 = dp:2 tp:2
	mesh m2 = tp:4
	mesh m3 = dp:2
	stage 0 layers 0-3 ranks 0-3
	stage 1 layers 4-5 ranks 4-5
	layers 0-1 mesh m1 zero 1 recompute full
	layers 2-3 mesh m2
	layers 4-5 mesh m3 zero 2 recompute selective
END
plans="one dp tp pp zero all"
pairs="one-all all-zero zero-pp pp-tp tp-dp dp-one all-all zero-zero"
if [ -n "${CHECK_ALL:-}" ]; then
	pairs=
	for a in $plans; do for b in $plans; do pairs="$pairs $a-$b"; done; done
fi

# run PLAN options: "step K LOSS NORM" lines
run() {
	local name=$1
	shift
	ranks=$(awk '/^ranks/ { print $2 }' "$T/$name.plan") losses_of "$name" --order shuffled "$@"
}
same_bytes() { # what A B: two checkpoints
	diff -r "$2" "$3" >/dev/null || fail "$1: other bytes than a run that never stopped"
}

for p in $plans; do
	compile "$p" $model --plan="$T/$p.plan"
	run "$p" --steps 10 --checkpoint "$T/$p.10" >"$T/half"
	[ "$p" != one ] || run one --steps 20 --checkpoint "$T/one.20" >"$T/whole"
	head -n 10 "$T/whole" >"$T/want"
	agree "$T/half" "$T/want" 1e-9
done
tail -n 10 "$T/whole" >"$T/want"
for pair in $pairs; do
	a=${pair%-*} b=${pair#*-}
	rm -rf "$T/there"
	run "$b" --resume "$T/$a.10" --steps 20 --checkpoint "$T/there" >"$T/have"
	agree "$T/have" "$T/want" 1e-9
	off=$("$compare" "$T/one.20/step-20/model.safetensors" "$T/there/step-20/model.safetensors" 1e-9) || fail "from $a into $b: $off"
	if [ "$a" = "$b" ]; then
		[ -e "$T/$b.20" ] || run "$b" --steps 20 --checkpoint "$T/$b.20" >/dev/null
		same_bytes "from $a into $b" "$T/$b.20/step-20" "$T/there/step-20"
		off="$off; the bytes of a run that never stopped"
	fi
	echo "from $a into $b: $off"
done

# Killed, all of it, while it runs; and again while it goes on.
rm -rf "$T/killed"
for at in 5 12; do
	mpi 6 "$T"/all/stage_* --data "$T/text" --json --steps 1000000 --save-every 2 --checkpoint "$T/killed" \
		$([ $at = 5 ] || echo --resume "$T/killed") >"$T/out" 2>"$T/err" &
	job=$!
	for _ in $(seq 400); do ! grep -q "\"step\":$at," "$T/out" || break; sleep 0.05; done
	grep -q "\"step\":$at," "$T/out" || { cat "$T/err"; fail "step $at never came"; }
	kill -9 $(ls -l /proc/[0-9]*/exe 2>/dev/null | sed -n "s|.* /proc/\([0-9]*\)/exe -> $T/all/stage_.*|\1|p") 2>/dev/null || true
	wait $job 2>/dev/null || true
done
last=$(($(ls -d "$T"/killed/step-*[0-9] | sed 's/.*step-//' | sort -n | tail -1) + 3))
run all --resume "$T/killed" --steps $last --checkpoint "$T/killed" >/dev/null
run all --steps $last --checkpoint "$T/never" >/dev/null
same_bytes "killed twice" "$T/never/step-$last" "$T/killed/step-$last"
echo "killed twice, the second time after step $((last - 3)): the bytes of a run that never stopped"
