#!/bin/bash
# Models of every kind (tests/models/zoo, and models/ made small) under plans for many ranks: dp with ZeRO 2, tp, two stages, and
# two stages of dp x tp with ZeRO 3 and full recomputation. In the interpreter, in float64, down to level mem, ranks in an
# adversarial order: loss, gradient norm and reports of two steps equal those of one rank before planning.
# `make check` takes a quarter of the models, by commit; CHECK_ALL=1 takes all.
. tests/lib.sh
part=${ZOO_PART:-$((0x$(git rev-parse HEAD 2>/dev/null | cut -c1-6 || echo 0) % 4))} # 0 .. 3
cases=0 refused=0

# same A B WHAT: lines of equal words, numbers within 1e-10.
same() {
	paste -d '\n' "$1" "$2" | awk '
		function off(x, y) { d = x - y; if (d < 0) d = -d; m = y < 0 ? -y : y; return d > 1e-10 * m || x != x || d != d }
		NR % 2 { n = split($0, want); next }
		NF != n { print "differ: " $0; bad = 1; next }
		{ for (k = 1; k <= n; k++) if (want[k] "" != $k "" && (want[k] !~ /^[-0-9]/ || off(want[k] + 0, $k + 0))) { print "differ: " $0; bad = 1 } }
		END { exit bad || NR == 0 || NR % 2 }' || { cat "$T/plan"; fail "$3"; }
}

# range FIRST COUNT
range() { if [ "$2" = 1 ]; then echo "$1"; else echo "$1-$(($1 + $2 - 1))"; fi; }

# plan LAYERS STAGES RANKS-OF-A-STAGE MESH REST: the layers cut evenly, one mesh.
plan() {
	local layers=$1 stages=$2 ranks=$3 s=0 at=0 n
	echo "plan 1"
	echo "ranks $((stages * ranks)) threads 1"
	[ "$4" = m0 ] || echo "mesh m1 = $4"
	while [ $s -lt "$stages" ]; do
		n=$((layers / stages + (s < layers % stages)))
		echo "stage $s layers $(range $at $n) ranks $(range $((s * ranks)) "$ranks")"
		at=$((at + n)) s=$((s + 1))
	done
	echo "layers $(range 0 "$layers") mesh $([ "$4" = m0 ] && echo m0 || echo m1) $5"
}

# What may be refused, in words: a model that ties the samples of a batch together, or has too few.
allowed="ties the samples|splits a microbatch of"

# compare FILE LAYERS STAGES RANKS MESH REST -- OPTIONS
compare() {
	local file=$1 stages=$3
	[ "$stages" -le "$2" ] || return 0
	plan "$2" "$3" "$4" "$5" "$6" >"$T/plan"
	shift 7
	cases=$((cases + 1))
	if "$GV" eval "$file" "$@" --precision=f64 --steps=2 --plan "$T/plan" --order=3 >"$T/have" 2>"$T/err"; then
		same "$T/want" "$T/have" "$file under this plan differs from one rank"
	elif grep -qE "$allowed" "$T/err"; then
		refused=$((refused + 1))
		echo "$(basename "$file") $(sed -n 's/^mesh m1 = //p' "$T/plan"): $(grep -m1 error "$T/err")"
	else
		cat "$T/plan" "$T/err"
		fail "$file does not run under this plan"
	fi
}

number=0
# model FILE OPTIONS: all plans, if it is of the part that is run.
model() {
	local file=$1 layers
	shift
	number=$((number + 1))
	[ "${CHECK_ALL:-0}" = 1 ] || [ $((number % 4)) = "$part" ] || return 0
	"$GV" eval "$file" "$@" --precision=f64 --steps=2 --stop-after=optimizer >"$T/want" || fail "$file"
	layers=$("$GV" "$file" "$@" --emit=plan 2>/dev/null | sed -n 's/^stage 0 layers \([0-9]*-\)*\([0-9]*\) .*/\2/p')
	[ -n "$layers" ] || fail "$file: no plan for one rank"
	layers=$((layers + 1))
	compare "$file" $layers 1 2 dp:2 "zero 2" -- "$@"
	compare "$file" $layers 1 2 tp:2 "recompute selective" -- "$@"
	compare "$file" $layers 2 1 m0 "" -- "$@"
	compare "$file" $layers 2 4 "dp:2 tp:2" "zero 3 recompute full" -- "$@"
}

for file in tests/models/zoo/*.gdl; do model "$file"; done
s() { echo "$*" | sed 's/\([^ ]*=\)/--set \1/g'; }
model models/gpt2.gdl $(s batch=2 seq=8 vocab=100 embed=24 heads=3 layers=2)
model models/llama3.gdl $(s batch=2 seq=8 vocab=100 embed=24 kv=2 group=2 head=6 ffn=40 layers=2)
model models/bert.gdl $(s batch=2 seq=8 vocab=100 embed=24 heads=3 layers=2 pick=3)
model models/vit.gdl $(s batch=2 height=8 width=8 py=4 px=4 class=10 embed=24 heads=3 layers=2)
model models/swin.gdl $(s batch=2 height=32 width=32 py=2 px=2 class=10 c1=8 n1=1 n2=2 n3=2 n4=4 window_size=2)
model models/mixtral.gdl $(s batch=2 seq=6 vocab=100 embed=16 kv=2 group=2 head=4 ffn=24 expert=4 layers=2)
model models/t5.gdl $(s batch=2 seq=6 source=7 vocab=100 embed=24 heads=3 head=8 ffn=40 bucket=8 layers=2)
echo "$cases plans, $refused refused"
[ $((cases - refused)) -ge 20 ] || fail "too few plans ran"
