#!/bin/bash
# Starting, and ending badly. Right, or one clear line within 5 s that names what is wrong; nothing hangs, and no process is
# left over. 1 to 12 stages (CHECK_ALL=1: each number; names sort 0 1 10 11 2), 8 ranks on 2 cores; as root and as another
# user; mpirun as typed, make run, an appfile; a wrong count, a missing stage, a stage of another plan; a small and a full
# /dev/shm; a rank that is killed, one that is stopped; SIGTERM.
. tests/lib.sh
. tests/mpi.sh
text
export OPT=-O1 GVRT_PEAK=0 OMP_NUM_THREADS=1 MPI_TIMEOUT=60
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
model=tests/models/gpt.gdl
settings="--set layers=10 --set batch=4 --precision=f64"
data="--data $T/text --order sequential"

# processes DIR [STAGE]: those that run a program of DIR
processes() {
	ls -l /proc/[0-9]*/exe 2>/dev/null | sed -n "s|.* /proc/\([0-9]*\)/exe -> $1/stage_${2:-}.*|\1|p" || true
}

# Ends with nobody left over; a moment for those that are being ended.
alone() {
	for _ in $(seq 40); do [ -n "$(processes "$T/eight")" ] || return 0; sleep 0.1; done
	kill -9 $(processes "$T/eight")
	fail "$*: processes are left over"
}

job= user= home=
clean() { # also after a failure
	[ -z "$job" ] || kill -9 "$job" 2>/dev/null || true
	[ -z "$user" ] || userdel "$user" 2>/dev/null || true
	[ -z "$home" ] || rm -rf "$home"
}
trap clean EXIT

# step lines on standard input
steps() { sed -n 's/.*"step": *\([0-9]*\), *"loss": *\([^,]*\), *"norm": *\([^,}]*\).*/step \1 \2 \3/p'; }

# ---- 1 to 12 stages ----
cat >"$T/head" <<-END
	plan 1
	model gpt
	mesh m0 = mb
END
stages_plan() { # N: N stages of one rank, 12 layers between them
	awk -v n="$1" 'NR == 2 { print; print "ranks " n " threads 1 microbatches 2 schedule 1f1b"; next } { print }
		END { for (s = 0; s < n; s++) { a = int(s * 12 / n); b = int((s + 1) * 12 / n) - 1
			print "stage " s " layers " (a == b ? a : a "-" b) " ranks " s }
			print "layers 0-11 mesh m0" }' "$T/head"
}
compile one $model $settings --microbatches=2 --threads=1
losses one --steps 3 >"$T/want"
numbers="2 12"
[ -z "${CHECK_ALL:-}" ] || numbers=$(seq 2 12)
for n in $numbers; do
	stages_plan "$n" >"$T/p.plan"
	compile many $model $settings --plan="$T/p.plan"
	mpirun -np "$n" "$T"/many/stage_* $data --steps 3 --json 2>"$T/err" | steps >"$T/have" || { cat "$T/err"; fail "$n stages"; }
	agree "$T/have" "$T/want" 1e-9
	make -s -C "$T/many" run ARGS="$data --steps 3 --json" 2>"$T/err" | steps >"$T/have" || { cat "$T/err"; fail "make run of $n stages"; }
	agree "$T/have" "$T/want" 1e-9
	[ "$n" = 12 ] || rm -rf "$T/many"
done

# ---- 8 ranks on 2 cores, in three stages ----
awk 'NR == 2 { print; print "ranks 8 threads 1 microbatches 2 schedule 1f1b"; next } { print }' "$T/head" >"$T/p.plan"
cat >>"$T/p.plan" <<-END
	mesh m1 = dp:2
	mesh m2 = dp:2 tp:2
	mesh m3 = tp:2
	stage 0 layers 0-3 ranks 0-1
	stage 1 layers 4-8 ranks 2-5
	stage 2 layers 9-11 ranks 6-7
	layers 0-3 mesh m1 zero 2
	layers 4-8 mesh m2 zero 3
	layers 9-11 mesh m3
END
compile eight $model $settings --plan="$T/p.plan"
losses_8() { # command...: its losses are those of one rank
	"$@" >"$T/out" 2>"$T/err" || { cat "$T/err"; fail "$*"; }
	steps <"$T/out" >"$T/have"
	agree "$T/have" "$T/want" 1e-9
}
losses_8 mpirun -np 8 "$T"/eight/stage_* $data --steps 3 --json
[ ! -s "$T/err" ] || { cat "$T/err"; fail "8 ranks have something to say"; }
losses_8 make -s -C "$T/eight" run ARGS="$data --steps 3 --json"
losses_8 mpirun --bind-to core:overload-allowed -np 8 "$T"/eight/stage_* $data --steps 3 --json
losses_8 mpirun -np 8 "$T/eight/stage_0" $data --steps 3 --json
for s in "2 0" "4 1" "2 2"; do echo "-np ${s% *} $T/eight/stage_${s#* } $data --steps 3 --json"; done >"$T/appfile"
losses_8 mpirun --app "$T/appfile"
make -s -C "$T/eight" run ARGS="$data --steps 3" >"$T/out" 2>&1 </dev/null
! grep -q $'[\r\033]' "$T/out" || fail "control sequences in a file"

# ---- as another user ----
if [ "$(id -u)" = 0 ] && command -v useradd >/dev/null && command -v setpriv >/dev/null; then
	user=gvtest$$ home=$(mktemp -d)
	useradd -M -d "$home" "$user"
	cp -r "$T/eight" "$T/text" "$home"
	chown -R "$user" "$home"
	as_user() { env -u OMPI_ALLOW_RUN_AS_ROOT -u OMPI_ALLOW_RUN_AS_ROOT_CONFIRM -u TMPDIR HOME="$home" setpriv --reuid "$user" --regid "$user" --clear-groups "$@"; }
	losses_8 as_user mpirun -np 8 "$home"/eight/stage_* --data "$home/text" --order sequential --steps 3 --json --checkpoint "$home/ck"
	[ "$(stat -c %U "$home/ck/step-3/model.safetensors")" = "$user" ] || fail "the checkpoint is not $user's"
	losses_8 as_user make -s -C "$home/eight" run ARGS="--data $home/text --order sequential --steps 3 --json"
	echo "as root, and as a user"
elif [ "$(id -u)" = 0 ]; then
	echo "no useradd and setpriv: as root only"
else
	echo "not as root: this test does not run as root"
fi

# ---- what is wrong, in one line ----
one_line() { # text: the one line in $T/err
	[ "$(grep -c '^gvrt' "$T/err")" = 1 ] || { cat "$T/err"; fail "not one line: $what"; }
	grep '^gvrt' "$T/err" | grep -qF -- "$1" || { cat "$T/err"; fail "$what: no \"$1\""; }
}
bad() { # text command...: fails within 5 s, with one line of ours that holds the text
	local text=$1 begun
	shift
	what=$*
	begun=$(date +%s%N)
	"$@" >"$T/out" 2>"$T/err" && fail "status 0: $what"
	took=$((($(date +%s%N) - begun) / 1000000))
	[ $took -le 5000 ] || fail "$took ms: $what"
	one_line "$text"
	alone "$what"
}
T_eight="$T/eight/stage_*"
for n in 1 7; do
	bad "gpt is compiled for 8 ranks, and $n w$([ $n = 1 ] && echo as || echo ere) started; run: mpirun -n 8 $T_eight" mpirun -np $n "$T"/eight/stage_* $data
done
bad "-n 8 $T_eight" "$T/eight/stage_1" $data
mkdir "$T/broken" && cp "$T"/eight/stage_[02] "$T/broken"
bad "ranks 2-5 run stage 1 of gpt, and there is no program stage_1" mpirun -np 8 "$T"/broken/stage_* $data
compile other $model $settings --set seq=12 --plan="$T/p.plan"
cp "$T/other/stage_1" "$T/broken"
bad "stage_1 is stage 1 of plan" mpirun -np 8 "$T"/broken/stage_* $data
cp "$T/many/stage_1" "$T/broken"
bad "stage_1 is stage 1 of plan" mpirun -np 8 "$T"/broken/stage_* $data
bad "unknown option" mpirun -np 8 "$T"/eight/stage_* --nonsense
bad "no such file" mpirun -np 8 "$T"/eight/stage_* --data "$T/nowhere"

# ---- /dev/shm ----
if unshare -m sh -c 'mount -t tmpfs -o size=64m none /dev/shm' 2>/dev/null; then
	small() { unshare -m sh -c "mount -t tmpfs -o size=$1 none /dev/shm && $2 && shift 2 && \"\$@\"" - "$@"; }
	for t in window mpi; do
		GVRT_TRANSPORT=$t losses_8 small 64m true mpirun -np 8 "$T"/eight/stage_* $data --steps 3 --json
		what="a full /dev/shm over $t"
		GVRT_TRANSPORT=$t losses_8 small 1m "{ cat /dev/zero >/dev/shm/full; true; } 2>/dev/null" mpirun -np 8 "$T"/eight/stage_* $data --steps 3 --json
		one_line "/dev/shm is too small or full"
	done
else
	echo "no mount namespaces here: /dev/shm is not made small"
fi

# ---- ranks that die, stop, or are told to ----
begin() { # options: in the background, $job; returns after its second step
	: >"$T/out"
	mpirun -np 8 "$T"/eight/stage_* $data --steps 1000000 --json "$@" >"$T/out" 2>"$T/err" &
	job=$!
	for _ in $(seq 400); do ! grep -q '"step":2,' "$T/out" || return 0; sleep 0.05; done
	cat "$T/err"
	fail "never began"
}
# ends_with SIGNAL STAGE TEXT: a rank of that stage gets the signal
ends_with() {
	local begun said= victim
	what="SIG$1 to a rank of stage $2 over $GVRT_TRANSPORT"
	begin
	victim=$(processes "$T/eight" "$2" | sed -n 2p)
	begun=$(date +%s%N)
	kill "-$1" "$victim"
	while kill -0 $job 2>/dev/null && [ $(($(date +%s%N) - begun)) -lt 20000000000 ]; do
		[ -n "$said" ] || ! grep -q '^gvrt' "$T/err" || said=$((($(date +%s%N) - begun) / 1000000))
		sleep 0.05
	done
	took=$((($(date +%s%N) - begun) / 1000000))
	[ $took -lt 10000 ] || { cat "$T/err"; kill -9 $job; alone "$what"; fail "$what: mpirun is there after $took ms"; }
	wait $job && fail "$what: status 0"
	job=
	[ "${said:-$took}" -le 5000 ] || fail "$what: said after $said ms"
	one_line "$3"
	alone "$what"
	echo "$what: said after ${said:-$took} ms, over after $took ms"
}
for t in window mpi; do
	export GVRT_TRANSPORT=$t
	for stage in 0 1 2; do ends_with KILL $stage "(stage $stage) is gone"; done
	for stage in 0 1; do ends_with STOP $stage "(stage $stage, process"; done
done
unset GVRT_TRANSPORT

# told STATUS SIGNAL STAGE|mpirun: a checkpoint, which the next run goes on from; everyone leaves
told() {
	local status=$1 last
	rm -rf "$T/ck"
	begin --checkpoint "$T/ck"
	what="SIG$2 to $3"
	if [ "$3" = mpirun ]; then kill "-$2" $job; else kill "-$2" "$(processes "$T/eight" "$3" | sed -n 1p)"; fi
	wait $job && have=0 || have=$?
	job=
	[ $have = "$status" ] || [ "$status" = any ] || { cat "$T/err"; fail "$what: status $have"; }
	alone "$what"
	last=$(sed -n 's/.*stopped by SIGTERM after step \([0-9]*\).*/\1/p' "$T/err")
	[ -n "$last" ] && [ -s "$T/ck/step-$last/optimizer.safetensors" ] || { cat "$T/err"; fail "$what: no checkpoint"; }
	mpirun -np 8 "$T"/eight/stage_* $data --resume "$T/ck" --steps $((last + 1)) --json >"$T/out" 2>"$T/err" || { cat "$T/err"; fail "$what: not resumed"; }
	grep -q "\"step\":$((last + 1))," "$T/out" || fail "$what: not resumed"
	echo "$what: a checkpoint, status $have, resumed"
}
told 0 TERM 0
told 0 TERM 2
told any TERM mpirun
told 0 USR1 mpirun

# mpirun itself killed: nobody goes on without it
begin
kill -9 $job
wait $job 2>/dev/null || true
job=
alone "SIGKILL to mpirun"
