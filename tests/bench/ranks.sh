#!/bin/bash
# Two ranks with one thread each against one rank with two threads, on the same two cores: data, tensor, pipeline parallelism
# and ZeRO-2, for GPT-2 124M and the small GPT. Programs take turns, a few steps a turn; medians over all turns. A row says
# how long a step took, the ratio to one rank, and how long a rank stood waiting for others (on average of the two).
#
# usage: make bench-ranks      ROUNDS=5 STEPS=4 by default; prints a table
set -eu
GV=$1 out=$2
rounds=${ROUNDS:-5} steps=${STEPS:-4}
mkdir -p "$out"
cat models/*.gdl ir/*.c passes/*.c | tr -d '\200-\377' >"$out/text"

# plan FILE NAME RANKS STAGES MICROBATCHES MESH REST
plan() {
	local n=$2 name=$3 cut=$6
	{
		echo "plan 1"
		echo "model $name"
		echo "ranks 2 threads 1 microbatches $4 schedule 1f1b"
		echo "mesh m0 = mb"
		[ "$5" = m0 ] || echo "mesh m1 = $5"
		if [ "$5" = m0 ]; then
			echo "stage 0 layers 0-$((cut - 1)) ranks 0"
			echo "stage 1 layers $cut-$((n - 1)) ranks 1"
			echo "layers 0-$((n - 1)) mesh m0"
		else
			echo "stage 0 layers 0-$((n - 1)) ranks 0-1"
			echo "layers 0-$((n - 1)) mesh m1 $7"
		fi
	} >"$1"
}

build() { # NAME FILE options
	local name=$1
	shift
	"$GV" "$@" -o "$out/$name" --quiet
	make -s -C "$out/$name" >/dev/null
}

run() { # NAME RANKS: appends step seconds and waiting seconds
	local launch=
	[ "$2" = 1 ] || launch="mpirun --bind-to none -np $2"
	OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 $launch "$out/$1"/stage_* --data "$out/text" --json --steps "$steps" 2>/dev/null |
		sed -n 's/.*"step": *\([0-9]*\).*"seconds": *\([^,}]*\).*/\1 \2 &/p' |
		awk '$1 > 1 { w = 0; if (match($0, /"waited": *[0-9.e-]+/)) { split(substr($0, RSTART, RLENGTH), x, ":"); w = x[2] + 0 } print $2, w }' >>"$out/$1.times"
}

median() { sort -g | awk '{ x[NR] = $1 } END { print NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2 }'; }

bench() { # MODEL FILE INSTANCES CUT options
	local model=$1 file=$2 n=$3 cut=$4 gdl
	shift 4
	gdl=$(awk '/^model/ { print $2; exit }' "$file")
	plan "$out/dp.plan" "$n" "$gdl" 1 dp:2 0 ""
	plan "$out/zero2.plan" "$n" "$gdl" 1 dp:2 0 "zero 2"
	plan "$out/tp.plan" "$n" "$gdl" 1 tp:2 0 ""
	plan "$out/sp.plan" "$n" "$gdl" 1 tp:2 0 megatron_sp
	plan "$out/pp.plan" "$n" "$gdl" 4 m0 "$cut" ""
	build "$model-one" "$file" "$@" --threads=2 --memory=16GiB
	for p in dp zero2 tp sp pp; do build "$model-$p" "$file" "$@" --plan "$out/$p.plan"; done
	rm -f "$out/$model"-*.times
	for _ in $(seq "$rounds"); do
		run "$model-one" 1
		for p in dp zero2 tp sp pp; do run "$model-$p" 2; done
	done
	one=$(awk '{ print $1 }' "$out/$model-one.times" | median)
	printf '| %s | one rank, 2 threads | %.1f | 1.00 | |\n' "$model" "$(echo "$one" | awk '{ print $1 * 1e3 }')"
	for p in dp zero2 tp sp pp; do
		awk '{ print $1 }' "$out/$model-$p.times" | median | awk -v one="$one" -v p="$p" -v w="$(awk '{ print $2 }' "$out/$model-$p.times" | median)" \
			'{ printf "| | %s, 2 ranks | %.1f | %.2f | %.1f |\n", p, $1 * 1e3, one / $1, w * 1e3 }'
	done
}

echo "| model | plan | ms a step | speed against one rank | ms waiting |"
echo "|---|---|---|---|---|"
bench small tests/bench/gpt.gdl 6 3 --set layers=4 --set embed=256 --set heads=4 --set vocab=256 --set batch=8
bench 124M tests/bench/gpt.gdl 14 7
