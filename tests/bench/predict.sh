#!/bin/bash
# Is what plans are predicted to take what they take? gvprof measures this machine once; then plans for one rank with all cores and
# for two ranks that share them are predicted, and run in turns, some steps a turn; medians over all turns. What the search
# chooses is one of them. A row: predicted and measured ms a step, the error, how far the quartiles of the measured steps are apart.
#
# usage: make bench-predict      ROUNDS=3 SECONDS_EACH=0.6 MODELS="small wide llama" by default (demo is another); prints a table and
#        plans N median_error_percent X chosen_worst_percent Y
#        Y: by how much a chosen plan is slower than the best of its rank count, at the worst; 0 where it is inside the spread.
# The machine must have nothing else to do (PREFIX="chrt -f 1" helps where it has). What was measured is kept in OUT: a second run measures what changed.
set -eu
GV=$1 out=$2
PROF=${GV%/*}/gvprof
rounds=${ROUNDS:-3} each=${SECONDS_EACH:-0.6}
mkdir -p "$out"
cat models/*.gdl ir/*.c passes/*.c | tr -d '\200-\377' >"$out/text"
cores=$(nproc)

model() { # NAME: sets file, args, name in the file, number of instances
	case $1 in
	small) file=tests/bench/gpt.gdl n=6 args="layers=4 embed=256 heads=4 vocab=256 batch=8" ;;
	wide) file=tests/bench/gpt.gdl n=5 args="layers=3 embed=512 heads=8 vocab=4096 batch=4 seq=128" ;;
	llama) file=models/llama3.gdl n=6 args="layers=4 batch=8 seq=128 vocab=2048 embed=256 kv=2 group=2 head=64 ffn=640" ;;
	demo) file=models/demo.gdl n=6 args="batch=8" ;;
	*) echo "no model $1" >&2; exit 2 ;;
	esac
	gdl=$(awk '/^model/ { print $2; exit }' "$file")
	precision=
	grep -q 'precision = bf16' "$file" && precision=--precision=f32
	sets=
	for s in $args; do sets="$sets --set $s"; done
}

# plan NAME RANKS MICROBATCHES MESH CUT REST: CUT layers in the first of two stages; 0: one stage
plan() {
	{
		echo "plan 1"
		echo "model $gdl"
		echo "ranks $2 threads $((cores / $2)) microbatches $3 schedule 1f1b"
		echo "mesh m0 = mb"
		[ "$4" = m0 ] || echo "mesh m1 = $4"
		if [ "$5" = 0 ]; then
			echo "stage 0 layers 0-$((n - 1)) ranks 0$([ "$2" = 1 ] || echo -1)"
		else
			echo "stage 0 layers 0-$(($5 - 1)) ranks 0"
			echo "stage 1 layers $5-$((n - 1)) ranks 1"
		fi
		echo "layers 0-$((n - 1)) mesh $([ "$4" = m0 ] && echo m0 || echo m1) $6"
	} >"$out/$m-$1.plan"
	echo "$1 $2" >>"$out/$m.list"
}

plans() { # of model $m
	rm -f "$out/$m.list"
	plan one 1 1 m0 0 ""
	plan one-m2 1 2 m0 0 ""
	plan one-sel 1 2 m0 0 "recompute selective"
	plan one-full 1 4 m0 0 "recompute full"
	plan dp 2 1 dp:2 0 ""
	plan dp-z1 2 1 dp:2 0 "zero 1"
	plan dp-z2 2 2 dp:2 0 "zero 2 recompute selective"
	plan dp-z3 2 2 dp:2 0 "zero 3"
	plan dp-full 2 1 dp:2 0 "zero 1 recompute full"
	plan tp 2 1 tp:2 0 ""
	plan sp 2 1 tp:2 0 megatron_sp
	plan tp-full 2 2 tp:2 0 "recompute full"
	plan pp 2 4 m0 $((n / 2)) ""
	plan pp-full 2 4 m0 $((n / 2)) "recompute full"
	for r in 1 2; do
		# shellcheck disable=SC2086
		"$GV" "$file" $sets $precision --ranks $r --threads $((cores / r)) --cluster "$out/machine-$r.hw" --profile "$out/machine-$r.prof" --emit=plan \
			>"$out/$m-chosen$r.plan" && echo "chosen$r $r" >>"$out/$m.list"
	done
}

predicted() { # PLAN RANKS: ms
	# shellcheck disable=SC2086
	"$GV" "$file" $sets $precision --plan "$out/$m-$1.plan" --cluster "$out/machine-$2.hw" --profile "$out/machine-$2.prof" --emit=cost |
		awk '$1 == "step_ns" { print $2 * 1e-6 }'
}

build() { # PLAN RANKS
	# shellcheck disable=SC2086
	"$GV" "$file" $sets $precision --plan "$out/$m-$1.plan" --cluster "$out/machine-$2.hw" --profile "$out/machine-$2.prof" -o "$out/$m-$1" --quiet
	[ ! -d "$out/objects-$2" ] || [ -d "$out/$m-$1/obj" ] || cp -rp "$out/objects-$2" "$out/$m-$1/obj"
	make -s -C "$out/$m-$1" >/dev/null
	[ -d "$out/objects-$2" ] || { cp -rp "$out/$m-$1/obj" "$out/objects-$2" && rm -f "$out/objects-$2"/stage_*; }
}

run() { # PLAN RANKS STEPS: appends seconds of steps, the first two left out
	local launch=
	[ "$2" = 1 ] || launch="mpirun -np $2"
	# shellcheck disable=SC2086
	${PREFIX:-} $launch "$out/$m-$1"/stage_? --data "$out/text" --json --steps "$3" 2>"$out/log" |
		sed -n 's/.*"step": *\([0-9]*\).*"seconds": *\([^,}]*\).*/\1 \2/p' | awk '$1 > 2 { print $2 }' >>"$out/$m-$1.times"
}

quartiles() { sort -g "$1" | awk '{ x[NR] = $1 * 1e3 } END { print (NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2), x[int((NR + 3) / 4)], x[int((3 * NR + 3) / 4)] }'; }

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
: >"$out/rows"
for m in ${MODELS:-small wide llama}; do
	model "$m"
	# shellcheck disable=SC2086
	${PREFIX:-} "$PROF" "$file" $sets $precision --ranks 1,2 --seconds="${PROF_SECONDS:-0.8}" -o "$out/machine" --quiet
done
for m in ${MODELS:-small wide llama}; do
	model "$m"
	plans
	rm -f "$out/$m"-*.times
	while read -r p r; do build "$p" "$r"; done <"$out/$m.list"
	for _ in $(seq "$rounds"); do
		while read -r p r; do
			run "$p" "$r" "$(predicted "$p" "$r" | awk -v each="$each" '{ n = int(each * 1e3 / $1) + 3; if (n < 5) n = 5; if (n > 60) n = 60; print n }')" </dev/null
		done <"$out/$m.list"
	done
	while read -r p r; do
		echo "$m $p $r $(predicted "$p" "$r") $(quartiles "$out/$m-$p.times")" >>"$out/rows"
	done <"$out/$m.list"
done

echo "| model | plan | ranks | predicted ms | measured ms | error | spread |"
echo "|---|---|---|---|---|---|---|"
awk '{ printf "| %s | %s | %d | %.2f | %.2f | %+.1f %% | %.1f %% |\n", $1, $2, $3, $4, $5, 100 * ($4 - $5) / $5, 100 * ($7 - $6) / $5 }' "$out/rows"
awk '
	{
		e = ($4 - $5) / $5
		if (e < 0) e = -e
		x[++k] = e
		key = $1 " " $3
		if (!(key in best) || $5 < best[key]) best[key] = $5
		if ($2 ~ /^chosen/) { chosen[key] = $5; low[key] = $6 }
	}
	END {
		for (i = 1; i <= k; i++) for (j = i + 1; j <= k; j++) if (x[i] > x[j]) { t = x[i]; x[i] = x[j]; x[j] = t }
		for (key in chosen) {
			w = 0
			if (low[key] > best[key]) w = chosen[key] / best[key] - 1
			if (w > worst) worst = w
		}
		printf "plans %d median_error_percent %.2f chosen_worst_percent %.2f\n", k, 100 * (k % 2 ? x[(k + 1) / 2] : (x[k / 2] + x[k / 2 + 1]) / 2), 100 * worst
	}' "$out/rows"
