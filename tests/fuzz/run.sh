#!/bin/bash
# Runs one libFuzzer program for FUZZ_SECONDS on its corpus: tests/fuzz/run.sh PROGRAM. The seeds are the repository's own files.
set -u
name=$(basename "$1")
corpus=$T/corpus
mkdir -p "$corpus"
case "$name" in
gdl) seeds="models/*.gdl tests/models/*.gdl tests/frontend/bad/*.gdl tests/frontend/good/*.gdl" ;;
hw) seeds="models/clusters/*.hw tests/cli/*.hw tests/fuzz/seeds/hw/*" ;;
prof) seeds="tests/cli/*.prof tests/fuzz/seeds/prof/*" ;;
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
	small="--set layers=1 --set batch=4 --set seq=4 --set vocab=5 --set heads=2 --set embed=4 --set ffn=3"
	for plan in tests/fuzz/seeds/ranks/*.plan; do # and of many ranks
		for level in plan-ir spmd sched mem; do
			"$GV" tests/models/gpt.gdl $small --plan "$plan" --emit=$level >"$corpus/$(basename "$plan")-$level" || exit 1
		done
	done
fi
if [ "$name" = plan ]; then # random plans, and those of people who made a mistake; decisions are what the fuzzer finds
	for k in 1 2 3 4 5 7 8 9 10 11 13 14 15 16 17; do
		awk -v k=$k -v family=gpt -f tests/plans/draw.awk | sed '1,2d' >"$corpus/drawn-$k"
	done
	for f in tests/cli/plan-*.plan; do
		sed 's/layers \([0-3]\)-4/layers \1-5/' "$f" >"$corpus/$(basename "$f")"
	done
fi
if [ "$name" = json ]; then # strategies behind an s
	cp tests/galvatron/*.json "$corpus/"
	for f in tests/cli/strategy-*.json; do { printf s; sed 's/"1,1,1"/"1,1,1,1"/; s/"0,0,0"/"0,0,0,0"/; s/"pp_division": "3"/"pp_division": "4"/; s/"global_bsz": 6/"global_bsz": 16/' "$f"; } >"$corpus/$(basename "$f")"; done
fi
cd "$T" || exit 1
program=$1
[ "${program#/}" = "$program" ] && program=$OLDPWD/$program
"$program" -max_total_time="$FUZZ_SECONDS" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 corpus >log 2>&1 && exit 0
tail -40 log
exit 1
