#!/bin/bash
# A model in bf16 keeps it where the target has it (cuda, planned for only): shipped models, made small, print, parse and verify at
# every pass down to level mem; lowering changes no bit of loss and gradient norm on one rank (every rounding is in the IR);
# and over plans of several ranks they stay near those of float32. Emission for cuda is refused with a clear line.
. tests/lib.sh

# near A B TOLERANCE: "step K loss X norm Y" lines, numbers within a relative tolerance.
near() {
	paste "$1" "$2" | awk -v tol="$3" '
		function off(x, y) { d = x - y; if (d < 0) d = -d; return d > tol * y || x != x || y != y }
		off($4, $4) || $2 != $(2 + NF / 2) || off($4, $(4 + NF / 2)) || off($6, $(6 + NF / 2)) { print "differ: " $0; bad = 1 }
		END { exit bad || NR == 0 }' || fail "$4"
}

# model NAME LAYERS OPTIONS
model() {
	local file=$1 name layers=$2
	name=$(basename "$1")
	shift 2
	"$GV" eval "$file" "$@" --steps=2 >"$T/f32" || fail "$name in f32"
	"$GV" eval "$file" "$@" --target=cuda --steps=2 --stop-after=optimizer >"$T/train" || fail "$name in bf16"
	"$GV" eval "$file" "$@" --target=cuda --steps=2 --roundtrip >"$T/mem" || fail "$name in bf16, lowered"
	cmp -s "$T/train" "$T/mem" || { diff "$T/train" "$T/mem"; fail "$name: lowering changes what bf16 computes"; }
	! cmp -s "$T/f32" "$T/mem" || fail "$name: bf16 rounds nothing"
	near "$T/mem" "$T/f32" 0.03 "$name: bf16 is far from f32"
	"$GV" "$file" "$@" --target=cuda --emit=mem | grep -q "batch.*: bf16\[" || fail "$name: nothing is in bf16"
	local mid=$((layers / 2))
	for mesh in "dp:2 zero 3 recompute full" "dp:2 zero 1 recompute none" "tp:2 zero 0 recompute selective"; do
		cat >"$T/plan" <<-END
			plan 1
			ranks 4 threads 1
			mesh m1 = ${mesh%% *}
			stage 0 layers 0-$((mid - 1)) ranks 0-1
			stage 1 layers $mid-$((layers - 1)) ranks 2-3
			layers 0-$((layers - 1)) mesh m1 ${mesh#* }
		END
		"$GV" eval "$file" "$@" --target=cuda --steps=2 --roundtrip --plan "$T/plan" --order=3 >"$T/ranks" ||
			{ cat "$T/plan"; fail "$name in bf16 on 4 ranks"; }
		near "$T/ranks" "$T/f32" 0.03 "$name: bf16 on 4 ranks is far from f32"
	done
}
model models/gpt2.gdl 4 --set batch=4 --set seq=8 --set vocab=100 --set embed=24 --set heads=4 --set layers=2
model models/llama3.gdl 4 --set batch=4 --set seq=8 --set vocab=100 --set embed=24 --set kv=2 --set group=2 --set head=6 --set ffn=40 --set layers=2
model models/vit.gdl 4 --set batch=4 --set height=8 --set width=8 --set py=4 --set px=4 --set class=10 --set embed=24 --set heads=4 --set layers=2

# Weights in bf16, with a float32 master copy that ZeRO splits like the moments: 16 bytes for each of 1.0e4 parameters.
model tests/bench/a100/gpt.gdl 4 --set batch=4 --set seq=8 --set vocab=100 --set embed=24 --set heads=4 --set layers=2
"$GV" tests/bench/a100/gpt.gdl --set batch=4 --set layers=2 --target=cuda --emit=mem >"$T/gir"
awk '/^  sizes/ { for (k = 2; k < NF; k += 2) x[$k] = $(k + 1)
	exit !(x["param"] > 0 && x["grad"] == x["param"] && x["m"] == 2 * x["param"] && x["v"] == x["m"] && x["master"] == x["m"]) }' "$T/gir" ||
	{ grep "^  sizes" "$T/gir"; fail "sections of weights in bf16"; }

! "$GV" models/gpt2.gdl --set batch=2 --target=cuda -o "$T/out" 2>"$T/err" || fail "CUDA programs are emitted"
grep -q "emitting CUDA programs is not in this release" "$T/err" || { cat "$T/err"; fail "refused without saying why"; }
echo "4 models in bf16"
