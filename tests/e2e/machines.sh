#!/bin/bash
# Machines of unequal devices, and models that no part of the compiler was made with: what a plan says of itself is what is found
# when it is read again, memory holds on every kind of device, and the order of a file's nodes does not matter.
. tests/lib.sh
M=tests/models/unseen

device() { # name memory bf16 f32 bytes loops
	echo "device $1 cuda sm_80
  memory $2 reserved 1536MiB communicator 32MiB
  flops bf16 $3 f32 $4 f64 $4
  bytes $5
  loops $6
  launch 4us
  efficiency dot 0.7 attention 0.45
  overlap compute 1.1 communication 1.2"
}
machine() { # file node lines...
	local file=$1 line
	shift
	{
		echo "hw 1"
		device fast 80GB 989TFLOP/s 67TFLOP/s 3.35TB/s 33.5T/s
		device slow 16GB 312TFLOP/s 19.5TFLOP/s 1.555TB/s 9.75T/s
		device old 12GB 125TFLOP/s 15.7TFLOP/s 0.9TB/s 7.8T/s
		for line; do echo "node $line"; done
	} > "$T/$file.hw"
}
F="fast near 3us 450GB/s far 8us 25GB/s" S="slow near 3us 300GB/s far 8us 25GB/s" O="old near 5us 100GB/s far 8us 12GB/s"
machine fast-slow "1 x 4 $F" "1 x 4 $S"
machine slow-fast "1 x 4 $S" "1 x 4 $F"
machine three "1 x 4 $F" "1 x 2 $S" "1 x 3 $O"
machine seven "1 x 7 $F"

value() { sed -n "s/.*$1 \([0-9]*\).*/\1/p" "$2" | head -1; }

# Plans model on machine; twice the same bytes; read again, the same time and memory.
plan() {
	local at=$1-$2
	"$GV" "$M/$1.gdl" --cluster "$T/$2.hw" --emit=plan > "$T/$at.plan" || fail "$at: no plan"
	[ $2 = slow-fast ] || "$GV" "$M/$1.gdl" --cluster "$T/$2.hw" --emit=plan | cmp - "$T/$at.plan" || fail "$at: another plan the second time"
	"$GV" "$M/$1.gdl" --cluster "$T/$2.hw" --plan "$T/$at.plan" --emit=cost > "$T/$at.cost" || fail "$at: the plan is refused"
	[ "$(value step_ns "$T/$at.plan")" = "$(value step_ns "$T/$at.cost")" ] || fail "$at: another time when read again"
	local most=$(sed -n 's/^stage .* memory_bytes \([0-9]*\).*/\1/p' "$T/$at.cost" | sort -n | tail -1)
	[ "$(value memory_bytes "$T/$at.plan")" = "$most" ] || fail "$at: other memory when read again"
}
for model in gptj encdec towers mixer; do
	for hw in fast-slow slow-fast; do plan $model $hw; done
	a=$(value step_ns "$T/$model-fast-slow.plan") b=$(value step_ns "$T/$model-slow-fast.plan")
	[ $((a > b ? a - b : b - a)) -le $((a / 100)) ] || fail "$model: $a ns, with the nodes in another order $b"
done

plan gptj seven
plan encdec three
plan mixer three

# What the search took a plan for is near what it is: layers are found again between the reshards that a second stack needs.
"$GV" $M/encdec.gdl --cluster "$T/fast-slow.hw" --explain > "$T/why" || fail "no explanation"
awk '/by table/ { s = $0; sub(/ ms simulated.*/, "", s); sub(/.* /, "", s); t = $0; sub(/ ms by table.*/, "", t); sub(/.* /, "", t)
	if (s > 1.3 * t || t > 1.3 * s) { print; bad = 1 }; n++ } END { exit bad || !n }' "$T/why" || fail "the tables are far from the simulation"

# Where nothing fits, what is said to help does. Options that narrow the space do so.
gpt() { "$GV" models/gpt2.gdl --set=layers=6 --cluster "$T/fast-slow.hw" --emit=plan "$@"; }
helps() { # expected change, the options without what it is about, the one it is about
	local note
	gpt $2 $3 > /dev/null 2> "$T/no" && fail "$2 $3: fits"
	grep -q "no plan fits the memory: .* [(][0-9]* stages*, .*; over by [0-9.]* [KMG]iB" "$T/no" || fail "$2 $3: no stage or no shortfall: $(cat "$T/no")"
	note=$(sed -n 's/^note: \(.*would do\)/\1/p' "$T/no")
	case "$note" in *"$1"*) ;; *) fail "$2 $3: '$note' instead of '$1'" ;; esac
	gpt $2 > /dev/null || fail "$2 $3: '$note' does not help"
	gpt ${2/--memory=*/} $3 --memory=$(echo "$note" | sed 's/.*\(^\|else \)\([0-9.]*\) \([KMG]iB\) of memory.*/\2\3/') > /dev/null || fail "$2 $3: '$note': it would not do"
}
helps "fits without --microbatches" "--memory=6GB" "--microbatches=1"
helps "fits without --max-tp" "--set=seq=16384 --set=batch=8 --stages=1 --memory=4GB" "--max-tp=1"
gpt --memory=1GB > /dev/null 2> "$T/no" && fail "fits beside what is taken"
grep -q "^note: context, libraries and a communicator take 1.53 GiB of a device 'fast'" "$T/no" || fail "what is taken is not said"
gpt --max-tp=1 > "$T/tp" && gpt --max-zero=0 > "$T/zero" && gpt --stages=3 > "$T/stages" || fail "no plan under a limit"
! grep -q 'tp:' "$T/tp" && ! grep -q 'zero [1-3]' "$T/zero" && [ "$(grep -c '^stage' "$T/stages")" = 3 ] || fail "a limit does not hold"
