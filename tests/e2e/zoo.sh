#!/bin/bash
# Models of every kind, as a user writes them (tests/models/zoo). In the interpreter, in float64: loss, gradient norm and reports of
# three steps of the planned program equal those before planning, with recomputation, with microbatches, printed and read
# back after every pass. Some are emitted, and fed what the interpreter drew, dead buffers filled with NaN.
. tests/lib.sh
cc -std=gnu11 -O1 -I. -o "$T/draw" tests/e2e/draw.c "$BUILD/libgv.a" -lm || fail "draw.c"

# same A B: lines of equal words, numbers within 1e-11.
same() {
	paste -d '\n' "$1" "$2" | awk '
		function off(x, y) { d = x - y; if (d < 0) d = -d; m = y < 0 ? -y : y; return d > 1e-11 * m || x != x || d != d }
		NR % 2 { n = split($0, want); next }
		NF != n { print "differ: " $0; bad = 1; next }
		{ for (k = 1; k <= n; k++) if (want[k] "" != $k "" && (want[k] !~ /^[-0-9]/ || off(want[k] + 0, $k + 0))) { print "differ: " $0; bad = 1 } }
		END { exit bad || NR == 0 || NR % 2 }' || fail "$1 and $2 differ"
}

# Six of them tie the samples of a batch together, or have one: they run, and are told that they cannot be split.
tied=" albert clip decision ones unet vq "
for file in tests/models/zoo/*.gdl; do
	model=$(basename "$file" .gdl)
	run() { "$GV" eval "$file" --precision=f64 --steps=3 "$@" || fail "$model: galvatronc eval $*"; }
	run --stop-after=optimizer >"$T/train"
	run --recompute=full --roundtrip >"$T/full"
	run --recompute=selective >"$T/selective"
	same "$T/train" "$T/full"
	same "$T/train" "$T/selective"
	case "$tied" in
	*" $model "*)
		"$GV" "$file" --microbatches=2 --emit=mem >/dev/null 2>"$T/err" && fail "$model is split"
		[ "$model" = ones ] || grep -q "ties the samples" "$T/err" || fail "$model: $(cat "$T/err")"
		;;
	*)
		run --microbatches=2 --recompute=full >"$T/two"
		same "$T/train" "$T/two"
		;;
	esac
done

# emitted MODEL [options]: the program on what the interpreter drew.
emitted() {
	local file=tests/models/zoo/$1.gdl model=$1
	"$GV" eval "$file" --precision=f64 --steps=3 --stop-after=optimizer | awk '{ print "step", $2 + 1, $4, $6 }' >"$T/train"
	shift
	compile "$model" "$file" --precision=f64 "$@"
	"$T/draw" "$file" 3 "$T/$model.safetensors" || fail "draw $model"
	GVRT_POISON=1 "$T/$model/stage_0" --data "$T/$model.safetensors" --order sequential --steps 3 --json >"$T/json" 2>"$T/log" ||
		{ cat "$T/log"; fail "$model/stage_0"; }
	sed -n 's/.*"step": *\([0-9]*\), *"loss": *\([^,]*\),.*"norm": *\([^,}]*\).*/step \1 \2 \3/p' "$T/json" >"$T/out"
	same "$T/train" "$T/out"
}
emitted deepseek --recompute=selective
emitted perceiver
emitted switch --microbatches=2 --recompute=full
emitted experts
emitted vitdrop --microbatches=3
emitted names
emitted pyramid
emitted sums --microbatches=4
