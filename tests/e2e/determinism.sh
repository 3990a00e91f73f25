#!/bin/bash
# Compile twice: the same bytes. Train twice: the same bits. kill -9 at a random step and resume: the same bits as never stopped.
. tests/lib.sh
text
for model in gpt llama; do
	file=tests/models/$model.gdl
	"$GV" $file -o "$T/a" --quiet && (cd "$T" && cp -r "$OLDPWD/tests/models" . && "$GV" models/$model.gdl -o b --quiet)
	diff -r "$T/a/src" "$T/b/src" || fail "two compilations of $file differ"
	"$GV" $file --emit=mem >"$T/1" && "$GV" $file --emit=mem | cmp - "$T/1" || fail "two dumps of $file differ"
	rm -rf "$T/a" "$T/b"
done
compile gpt tests/models/gpt.gdl
run() { "$T/gpt/stage_0" --data "$T/text" --quiet "$@" >/dev/null 2>"$T/log" || { cat "$T/log"; fail "stage_0 $*"; }; }
run --steps 400 --checkpoint "$T/one"
run --steps 400 --checkpoint "$T/two"
diff -r "$T/one/step-400" "$T/two/step-400" || fail "two runs differ"
# killed while it runs, at whatever step it has reached, several times
for i in 1 2 3; do
	"$T/gpt/stage_0" --data "$T/text" --quiet --steps 400 --checkpoint "$T/kill" --save-every 10 \
		$([ -e "$T/kill" ] && echo --resume "$T/kill") >/dev/null 2>&1 &
	sleep "0.$((RANDOM % 4 + 1))"
	kill -9 $! 2>/dev/null || true
	wait $! 2>/dev/null || true
	ls -d "$T"/kill/step-*[0-9] >/dev/null 2>&1 || rm -rf "$T/kill"
done
if [ -e "$T/kill" ]; then run --steps 400 --checkpoint "$T/kill" --resume "$T/kill"; else run --steps 400 --checkpoint "$T/kill"; fi
diff -r "$T/one/step-400" "$T/kill/step-400" || fail "a resumed run differs from one that never stopped"
