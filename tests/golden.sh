#!/bin/bash
# One golden diagnostic: tests/golden.sh STEM, with STEM.err and one of
#   STEM.gdl   compiled to level graph     STEM.gir   resumed to the end     STEM.cmd   arguments of galvatronc, one line
# The compiler must fail with status 1 (2 for usage errors) and say exactly what STEM.err holds. UPDATE=1 rewrites it.
set -u
stem=$1
cd "$(dirname "$stem")" || exit 1
stem=$(basename "$stem")
if [ -e "$stem.gdl" ]; then
	"$GV" "$stem.gdl" --emit=graph >/dev/null 2>"$T/err"
elif [ -e "$stem.gir" ]; then
	"$GV" "$stem.gir" --emit=gir >/dev/null 2>"$T/err"
else
	eval "\"$GV\" $(cat "$stem.cmd")" >/dev/null 2>"$T/err"
fi
status=$?
if [ "$UPDATE" = 1 ]; then
	cp "$T/err" "$stem.err"
	exit 0
fi
diff -u "$stem.err" "$T/err" || exit 1
[ $status = 1 ] || [ $status = 2 ] || { echo "exit status $status, expected 1 or 2"; exit 1; }
