#!/bin/bash
# How long planning takes: whole processes on one core, from the model's text to the plan's, all dimensions searched.
#
# usage: tests/bench/search.sh GALVATRONC      (make bench-search)
#
# A row: median and slowest of five runs, CPU time of the median, peak memory; how many short models were lowered and how many
# layouts of them priced, and the CPU time an average one of those took, all else included; the limit; how far the plan may be
# from the best, as it was proven.
set -eu
export OMP_NUM_THREADS=1
GV=$1
h100=models/clusters/h100.hw
gpt3="models/gpt2.gdl --set layers=96 --set embed=12288 --set heads=96 --set seq=2048 --set batch=1536"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

row() { # name limit arguments...
	local name=$1 limit=$2 i
	shift 2
	: >"$work/times"
	for i in 1 2 3 4 5; do
		{ TIMEFORMAT='%R %U %S' && time taskset -c 0 "$GV" "$@" --emit=plan >"$work/plan"; } 2>>"$work/times"
	done
	taskset -c 0 "$GV" "$@" --emit=plan --explain --time >"$work/said" 2>"$work/passes"
	sort -n "$work/times" | awk -v name="$name" -v limit="$limit" -v tree="$(grep '^tree' "$work/said")" \
		-v gap="$(grep -o 'gap [0-9.]* %' "$work/said")" -v peak="$(peak "$@")" '
		{ wall[NR] = $1; cpu[NR] = $2 + $3 }
		END { split(tree, t, /[ ,]+/)
			printf "%-34s %6.2f s %6.2f s %6.2f s %7s %6d %6d %8.0f us %5s s  %s\n", name, wall[3], wall[NR], cpu[3], peak, t[4], t[6], cpu[3] / (t[6] ? t[6] : 1) * 1e6, limit, gap }'
}

# Peak memory in MiB; "-" without GNU time.
peak() {
	[ -x /usr/bin/time ] || { echo - && return; }
	/usr/bin/time -f %M "$GV" "$@" --emit=plan 2>&1 >"$work/plan" | awk 'END { printf "%.0f MiB", $1 / 1024 }'
}

printf '%-34s %8s %8s %8s %7s %6s %6s %11s %7s  %s\n' "model, devices" median slowest cpu peak lowered priced "cpu each" limit proven
row "LLaMA-3 8B, 34 layers, 8 H100" 0.2 models/llama3.gdl --cluster $h100 --ranks 8
row "LLaMA-3 8B, 34 layers, 64 H100" 0.2 models/llama3.gdl --cluster $h100 --ranks 64
row "GPT-2 1.5B, 50 layers, 8 H100" 0.2 models/gpt2.gdl --set layers=48 --set embed=1600 --set heads=25 --set batch=64 --cluster $h100 --ranks 8
row "GPT-2 1.5B, 50 layers, 32 H100" 0.2 models/gpt2.gdl --set layers=48 --set embed=1600 --set heads=25 --set batch=256 --cluster $h100 --ranks 32
row "LLaMA 64 layers, 64 H100" 0.2 models/llama3.gdl --set layers=62 --set batch=512 --cluster $h100 --ranks 64
row "GPT-3 175B, 98 layers, 1,024 H100" 1 $gpt3 --cluster $h100 --ranks 1024
row "GPT-3 175B, 98 layers, 16,384 H100" 10 $gpt3 --cluster $h100 --ranks 16384
