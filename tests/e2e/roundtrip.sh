#!/bin/bash
# Print, parse and go on with the re-read module after every pass; resume from a dump of every level. All give the same program.
. tests/lib.sh
for model in gpt llama; do
	file=tests/models/$model.gdl
	"$GV" $file -o "$T/a" --quiet || fail "$file"
	"$GV" $file --roundtrip -o "$T/b" --quiet || fail "$file --roundtrip"
	diff -r "$T/a/src" "$T/b/src" || fail "$model: --roundtrip changes the program"
	for level in graph train plan-ir spmd sched mem; do
		"$GV" $file --emit=$level >"$T/$level.gir" || fail "--emit=$level"
		"$GV" "$T/$level.gir" --emit=$level | cmp - "$T/$level.gir" || fail "$model: the dump of level $level does not print as it was read"
		rm -rf "$T/c"
		"$GV" "$T/$level.gir" -o "$T/c" --quiet || fail "resuming from $level"
		diff "$T/a/src/stage_0.c" "$T/c/src/stage_0.c" || fail "$model: resumed from $level"
	done
	rm -rf "$T/a" "$T/b"
	mkdir "$T/dumps"
	"$GV" $file --dump-dir="$T/dumps" --stop-after=sched || fail "--dump-dir"
	ls "$T/dumps"/*-simplify.gir "$T/dumps"/*-sched.gir >/dev/null || fail "--dump-dir wrote $(ls "$T/dumps")"
	rm -rf "$T/dumps"
done
for model in gpt2 llama3 bert t5 vit swin mixtral; do
	"$GV" models/$model.gdl --roundtrip --stop-after=simplify || fail "$model"
done
