#!/bin/bash
# Runs one libFuzzer program for FUZZ_SECONDS on its corpus: tests/fuzz/run.sh PROGRAM. The seeds are the repository's own files.
set -u
name=$(basename "$1")
corpus=$T/corpus
mkdir -p "$corpus"
case "$name" in
gdl) seeds="models/*.gdl tests/models/*.gdl tests/frontend/bad/*.gdl tests/frontend/good/*.gdl" ;;
*) seeds="tests/fuzz/seeds/$name/*" ;;
esac
for f in $seeds; do
	[ -f "$f" ] && cp "$f" "$corpus/$(echo "$f" | tr / _)"
done
if [ "$name" = gir ]; then # dumps of small models at every level
	for model in gpt llama; do
		for level in graph train spmd mem; do
			"$GV" tests/models/$model.gdl --emit=$level >"$corpus/$model-$level" || exit 1
		done
	done
fi
cd "$T" || exit 1
program=$1
[ "${program#/}" = "$program" ] && program=$OLDPWD/$program
"$program" -max_total_time="$FUZZ_SECONDS" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 corpus >log 2>&1 && exit 0
tail -40 log
exit 1
