#!/bin/bash
# Dumps written by hand: each reads, verifies, and prints in a form that prints as itself.
. tests/lib.sh
for f in tests/ir/good/*.gir; do
	level=$(sed -n 's/^gir 1 //p' "$f")
	"$GV" "$f" --emit="$level" >"$T/a.gir" || fail "$f"
	"$GV" "$T/a.gir" --emit="$level" | cmp - "$T/a.gir" || fail "$f does not print as it was read"
done
