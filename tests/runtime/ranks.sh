#!/bin/bash
# The runtime with several ranks, by programs written by hand (tests/runtime/toys/ranks.c, collectives.c): plans against one rank, over both
# transports; checkpoints from plan to plan; traffic; launching; ranks that die or stop. Needs Open MPI: skipped without.
# T: a private folder (made here if unset).
set -u
cd "$(dirname "$0")/../.." || exit 1
repo=$PWD
command -v mpirun >/dev/null && command -v mpicc >/dev/null || { echo "no mpirun and mpicc: nothing with several ranks is tested"; exit 77; }
if [ -z "${T:-}" ]; then
	T=$(mktemp -d)
	trap 'rm -rf "$T"' EXIT
fi
checks=0 failures=0
fail() { failures=$((failures + 1)); echo "FAILED: $*"; }
check() { checks=$((checks + 1)); "$@" >/dev/null 2>&1 || fail "$*"; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_base_warn_component_unused=0
export OMP_NUM_THREADS=1 GVRT_PEAK=0
run() { timeout 60 mpirun -np "$@"; }

# ---- programs: the runtime once, the toys against it ----
flags="-std=gnu11 -O1 -g -Wall -Wextra -Werror -fopenmp -Iruntime -DGVRT_F64 -DGVRT_MPI $(mpicc --showme:compile)"
mkdir -p "$T/obj"
printf '%s\n' $(ls runtime/*.c | grep -v 'kernels\|attention') |
	xargs -P 2 -I{} sh -c "${CC:-gcc} $flags -c -o \"$T/obj/\$(basename {} .c).o\" {}" || exit 1
build() { # folder stages flags...: folder/stage_k for every stage
	local dir=$T/$1 stages=$2 k
	shift 2
	mkdir -p "$dir"
	for k in $(seq 0 $((stages - 1))); do
		${CC:-gcc} $flags -DSTAGES=$stages -DSTAGE=$k "$@" -o "$dir/stage_$k" tests/runtime/toys/ranks.c "$T"/obj/*.o $(mpicc --showme:link) -lm || exit 1
	done
}
build one 1
${CC:-gcc} $flags -o "$T/collectives" tests/runtime/toys/collectives.c "$T"/obj/*.o $(mpicc --showme:link) -lm || exit 1
cd "$T" || exit 1

# ---- data: 60 samples of [5] -> [3] ----
le64() { local x=$1; for _ in 1 2 3 4 5 6 7 8; do printf "\\x$(printf %02x $((x & 255)))"; x=$((x >> 8)); done; }
head='{"x":{"dtype":"I16","shape":[60,5],"data_offsets":[0,600]},"t":{"dtype":"I16","shape":[60,3],"data_offsets":[600,960]}}'
head=${head//I16/F16}
{ le64 ${#head}; printf %s "$head"
	for i in $(seq 480); do v=$(((i * 7919 + i * i * 31) % 2048)); printf "\\x$(printf %02x $((v & 255)))\\x$(printf %02x $((0x38 + (v >> 8) + (i & 1) * 128)))"; done; } >d.safetensors
data="--data d.safetensors --val-data d.safetensors --eval-batches 2 --json"
losses() { grep -o '"loss":[^,}]*' | cut -d: -f2; }
# near A B: the same numbers, to 1e-11
near() { [ -s "$1" ] && [ "$(wc -l <"$1")" = "$(wc -l <"$2")" ] && paste "$1" "$2" | awk '{ d = $1 - $2; if (d < 0) d = -d; m = $1 < 0 ? -$1 : $1; if (d > 1e-11 * (m + 1)) bad = 1 } END { exit bad }'; }

# ---- collectives and exchanges against plain loops ----
for t in mpi window; do
	GVRT_TRANSPORT=$t GVRT_SYNC_SEND=1 run 4 ./collectives --steps 3 --quiet >log 2>&1 || fail "collectives over $t: $(head -5 log)"
	checks=$((checks + 1))
done

# ---- plans against one rank; from every checkpoint into the next plan ----
one/stage_0 $data --steps 12 --checkpoint ref >log || fail "one rank"
losses <log >want
one/stage_0 $data --steps 6 --checkpoint half --quiet
one/stage_0 $data --steps 1 --quiet --dump-grads want.grads
plans=(
	"dp2 1 2 -DDP0=2"
	"tp2 1 2 -DTP0=2"
	"dp4z1 1 4 -DDP0=4 -DZERO=1"
	"dp2tp2z2 1 4 -DDP0=2 -DTP0=2 -DZERO=2"
	"dp3z3 1 3 -DDP0=3 -DZERO=3"
	"tp4 1 4 -DTP0=4"
	"pp2 2 2 -DDP0=1"
	"uneven 2 3 -DDP0=1 -DTP0=1 -DDP1=2 -DTP1=1 -DZERO=1"
	"across 2 6 -DDP0=2 -DTP0=1 -DDP1=1 -DTP1=4 -DZERO=2"
)
prev=half
for p in "${plans[@]}"; do
	set -- $p
	name=$1 stages=$2 ranks=$3
	shift 3
	build_args="$*"
	(cd "$repo" && build "$name" "$stages" $build_args) || exit 1
	for t in mpi window; do
		GVRT_TRANSPORT=$t GVRT_SYNC_SEND=1 GVRT_TRAFFIC=$name.$t run $ranks $name/stage_* $data --steps 12 >log 2>err || fail "$name over $t: $(head -3 err)"
		losses <log >got
		check near want got
		[ "$(grep -c . err)" = 0 ] || fail "$name over $t says: $(head -3 err)"
	done
	for r in $(seq 0 $((ranks - 1))); do check cmp $name.mpi.$r $name.window.$r; done
	run $ranks $name/stage_* $data --steps 6 --resume $prev --checkpoint $name.half --quiet >log 2>&1 || fail "$name from $prev: $(head -3 log)"
	run $ranks $name/stage_* $data --steps 12 --resume $prev >log 2>err || fail "$name from $prev: $(head -3 err)"
	tail -n 7 want >tail.want
	losses <log >got
	check near tail.want got
	prev=$name.half
done
