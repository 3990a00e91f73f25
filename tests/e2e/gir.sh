#!/bin/bash
# Dumps written by hand: each reads, verifies, and prints in a form that prints as itself.
. tests/lib.sh
for f in tests/ir/good/*.gir; do
	level=$(sed -n 's/^gir 1 //p' "$f")
	[ "$level" = plan ] && level=plan-ir
	"$GV" "$f" --emit="$level" >"$T/a.gir" || fail "$f"
	"$GV" "$T/a.gir" --emit="$level" | cmp - "$T/a.gir" || fail "$f does not print as it was read"
done

# Dumps that were made right, and spoilt: the verifier says what is wrong.
spoil() { # LEVEL SED MESSAGE
	"$GV" tests/models/gpt.gdl --emit="$1" >"$T/right.gir" || fail "--emit=$1"
	sed -E "$2" "$T/right.gir" >"$T/wrong.gir"
	cmp -s "$T/right.gir" "$T/wrong.gir" && fail "nothing to spoil: $2"
	"$GV" "$T/wrong.gir" --emit=gir >"$T/out" 2>"$T/err" && fail "taken: $2"
	grep -q -- "$3" "$T/err" || fail "$2: '$3' is not in: $(cat "$T/err")"
}
spoil train 's/^  (body W [0-9]+)$/  body W 0/' 'but no body W of'
spoil train 's/^  dx 0 %.*$//' 'but no body B of'
spoil plan-ir 's/^  w_out 0 .*//' 'but no\|no body U of'
spoil sched 's/^( *)B 4$/\1W 4/' 'W of output .*hold nothing yet'
spoil sched 's/^  norm$//' "before 'norm'"
spoil sched 's/^( *)F 0$//' 'F of block.0 .*F of embedding .*hold nothing yet'
spoil sched 's/^( *)layers 3 \{$/\1layers 2 {/' 'of F of block.2 .*hold nothing yet'
spoil mem 's/^  cot ([0-9.]+) at 0 alt .*/  cot \1 at 0/' 'makes the cotangent of .* over .*, which it reads'
spoil mem 's/^  inst 2 at .*/  inst 2 at 64/' 'reads input labels .*left there by F of block.1'
spoil mem 's/ scratch [0-9]+$/ scratch 0/' 'hold scratch, left there by'
spoil mem 's/^(  saved f32\[.*heads head\]) at .*/\1 at 64/' 'of its frame'
spoil mem 's/^  param 2 at .*/  param 2 at 64/' 'share bytes'
