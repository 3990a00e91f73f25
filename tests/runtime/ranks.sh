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
one/stage_0 $data --steps 6 --checkpoint half --quiet >log
one/stage_0 $data --steps 1 --quiet --dump-grads want.grads >log
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
# into one rank, and the bytes of a checkpoint do not depend on the plan that wrote it
one/stage_0 $data --steps 12 --resume $prev >log || fail "one rank from $prev"
losses <log >got
check near tail.want got
run 4 tp4/stage_0 --steps 0 --quiet --checkpoint a >log 2>&1
one/stage_0 --steps 0 --quiet --checkpoint b
run 6 across/stage_* --steps 0 --quiet --checkpoint c >log 2>&1
check cmp a/step-0/model.safetensors b/step-0/model.safetensors
check cmp a/step-0/model.safetensors c/step-0/model.safetensors
run 3 dp3z3/stage_0 $data --steps 12 --init b/step-0/model.safetensors >log 2>&1
losses <log >got
check near want got
run 2 dp2/stage_0 --steps 0 --quiet --checkpoint c >log 2>&1 || fail "over a checkpoint that is there: $(cat log)"
check cmp a/step-0/model.safetensors c/step-0/model.safetensors
# nothing is allocated in a step: 200 more make no difference but MPI's own, which varies from start to start
${CC:-gcc} -std=gnu11 -O1 -fno-builtin -shared -fPIC -o count.so "$repo"/tests/runtime/toys/count_malloc.c -ldl || exit 1
for n in 6 206; do
	run 3 bash -c 'GVRT_LAUNCH=0 COUNT_MALLOC=count.$0.$OMPI_COMM_WORLD_RANK LD_PRELOAD=$PWD/count.so exec uneven/stage_$((OMPI_COMM_WORLD_RANK > 0)) "$@"' $n --data d.safetensors --steps $n --save-every 3 --checkpoint counted$n --quiet >log 2>&1
done
for r in 0 1 2; do
	more=$(($(cat count.206.$r) - $(cat count.6.$r)))
	check test ${more#-} -lt 100
done
# the same plan twice: the same bits; and gradients as one rank has them, to the last few bits
for n in x y; do run 4 dp2tp2z2/stage_0 $data --steps 12 --quiet --checkpoint $n >log 2>&1; done
check cmp x/step-12/model.safetensors y/step-12/model.safetensors
numbers() { tail -c $((48 * 8)) "$1" | od -An -v -tf8 -w8; }
numbers want.grads >grads.one
for p in "4 dp4z1" "3 dp3z3" "6 across" "3 uneven"; do
	set -- $p
	run $1 $2/stage_* $data --steps 1 --quiet --dump-grads $2.grads >log 2>&1
	numbers $2.grads >grads.many
	check near grads.one grads.many
done

# ---- twelve stages, whose names sort 0 1 10 11 2; sampling from logits of two ranks ----
mkdir chain
(cd "$repo" && for k in $(seq 0 11); do echo $k; done | xargs -P 2 -I{} ${CC:-gcc} $flags -DSTAGE={} -o "$T/chain/stage_{}" tests/runtime/toys/chain.c "$T"/obj/*.o $(mpicc --showme:link) -lm) || exit 1
printf '0123456789012345678901234567890123456789' >digits
run 13 chain/stage_* --data digits --steps 2 --json >log 2>err || fail "chain: $(head -3 err)"
check grep -q '"step":2,"loss":12,' log
check test "$(run 13 chain/stage_* --steps 0 --quiet --data digits --sample 9 --temperature 0 --prompt A 2>err)" = ABCDEFGHIJ

# ---- launching: one line ----
# bad TEXT COMMAND...: fails within 5 s, with one line of ours that says TEXT
bad() {
	local text=$1 start=$SECONDS
	shift
	checks=$((checks + 1))
	"$@" >out 2>err && fail "status 0: $*"
	[ $((SECONDS - start)) -le 5 ] || fail "$((SECONDS - start)) s: $*"
	[ "$(grep -c '^gvrt' err)" = 1 ] || fail "not one line: $*: $(grep '^gvrt' err)"
	grep '^gvrt' err | grep -qF -- "$text" || fail "no \"$text\" in: $(cat err)"
}
bad "ranks is compiled for 3 ranks, and 2 were started; run: mpirun -n 3 uneven/stage_*" run 2 uneven/stage_* $data
bad "-n 3 uneven/stage_*" uneven/stage_0 $data
mkdir -p missing && cp uneven/stage_0 missing
bad "ranks 1-2 run stage 1 of ranks, and there is no program stage_1" run 3 missing/stage_* $data
(cd "$repo" && build other 2 -DDP1=2 -DZERO=1 -DPLAN=7) && cp other/stage_1 missing
bad "missing/stage_1 is stage 1 of plan 0000000000000007" run 3 missing/stage_* $data
bad "unknown option" run 3 uneven/stage_* --nonsense
bad "No such file" run 3 uneven/stage_* --data nowhere.safetensors
bad "no entry" run 3 uneven/stage_* --data a/step-0/model.safetensors
bad "No such file" run 3 uneven/stage_* $data --resume nowhere
bad "cannot make the directory" run 3 uneven/stage_* $data --checkpoint d.safetensors/x
bad "GVRT_TRANSPORT is mpi or window" env GVRT_TRANSPORT=pigeon mpirun -np 3 uneven/stage_* $data
{ le64 ${#head}; printf %s "$head"; for _ in $(seq 480); do printf '\0\x7e'; done; } >nan.safetensors
bad "training cannot go on" run 3 uneven/stage_* --data nan.safetensors --steps 9 --quiet
check run 3 uneven/stage_0 $data --steps 1 # beside it

# ---- ranks that die, stop, or are told to ----
begin() { # options: uneven, slowly, in the background: $job; waits for its third step
	rm -f log
	TOY_CRAWL=1 run 3 uneven/stage_* $data --steps 100000 "$@" >log 2>err &
	job=$!
	for _ in $(seq 200); do grep -qs '"step":3,' log && return; sleep 0.05; done
	fail "never began: $(cat err)"
}
ranks_of() { # stage: process numbers
	local p
	for p in /proc/[0-9]*; do
		{ tr '\0' ' ' <"$p/cmdline" | grep -q "^uneven/stage_$1 --data" && [ "$(readlink "$p/cwd")" = "$PWD" ] && echo "${p#/proc/}"; } 2>/dev/null
	done
}
for t in mpi window; do
	for how in "KILL 1 rank [12] (stage 1) is gone" "SEGV 1 rank [12] (stage 1) died of signal 11 (Segmentation fault)" "STOP 1 rank [12] (stage 1, process" "STOP 0 rank 0 (stage 0, process" "KILL 0 rank 0 (stage 0) is gone"; do
		set -- $how
		sig=$1 stage=$2
		shift 2
		export GVRT_TRANSPORT=$t
		begin
		start=$SECONDS
		kill -$sig $(ranks_of $stage | head -1)
		wait $job
		[ $? != 0 ] || fail "$how: status 0"
		[ $((SECONDS - start)) -le 9 ] || fail "$how: ended after $((SECONDS - start)) s"
		checks=$((checks + 1))
		[ "$(grep -c '^gvrt' err)" = 1 ] || fail "$how: $(grep '^gvrt' err)"
		grep '^gvrt' err | grep -q -- "$*" || fail "$how: $(cat err)"
	done
done
unset GVRT_TRANSPORT
rm -rf sig
begin --checkpoint sig
kill -TERM $(ranks_of 1 | head -1)
wait $job
check test $? = 0
last=$(sed -n 's/.*stopped by SIGTERM after step \([0-9]*\).*/\1/p' err)
check test -s "sig/step-$last/optimizer.safetensors"
check run 3 uneven/stage_* $data --resume sig --steps $((last + 2))

# ---- not as root; a small and a full /dev/shm ----
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	chmod -R a+rX "$T" && mkdir -p nobody && chmod 777 nobody
	check env HOME=/tmp setpriv --reuid 65534 --regid 65534 --clear-groups mpirun -np 3 uneven/stage_* $data --steps 2 --checkpoint nobody/c
fi
if unshare -m true 2>/dev/null; then
	unshare -m sh -c "mount -t tmpfs -o size=64m none /dev/shm && mpirun -np 3 uneven/stage_* $data --steps 2" >log 2>err
	check grep -q '"step":2,' log
	check test ! -s err
	unshare -m sh -c "mount -t tmpfs -o size=1m none /dev/shm && mpirun -np 3 uneven/stage_* $data --steps 2" >log 2>err
	check grep -q '"step":2,' log
	check test "$(grep -c . err)" = 1
	check grep -q "/dev/shm is too small or full" err
else
	echo "no mount namespaces: /dev/shm is not made small"
fi

cd "$repo" || exit 1
[ $failures = 0 ] || { echo "ranks: $failures of $checks checks failed"; exit 1; }
echo "ranks: $checks checks ok"
