#!/bin/bash
# Two "hosts": network namespaces with UTS names of their own, and between them a pair of virtual Ethernet devices that tc slows
# down. gvprof measures both networks; the plan changes with the network, and over the slow one the plan chosen for it is the
# faster one when both are run. Needs root, ip, tc and Open MPI; else it says what is missing and exits with 77.
#
# usage: make bench-hosts
GV=$1 T=$2
rm -rf "$T"
mkdir -p "$T"
. tests/lib.sh
[ "$(id -u)" = 0 ] || skip "needs root for network namespaces"
for tool in ip tc unshare mpirun; do command -v $tool >/dev/null || skip "$tool is not installed"; done
mpirun --version | grep -q "Open MPI" || skip "mpirun is not Open MPI's"
text
PROF=${GV%/*}/gvprof
a=gv$$a b=gv$$b
clean() {
	ip netns del $a 2>/dev/null || true
	ip netns del $b 2>/dev/null || true
}
trap clean EXIT
ip netns add $a 2>/dev/null || skip "this system makes no network namespaces"
ip netns add $b
ip link add gv$$v0 netns $a type veth peer name gv$$v1 netns $b 2>/dev/null || skip "this system makes no virtual Ethernet devices"
ip -n $a addr add 10.77.0.1/24 dev gv$$v0
ip -n $b addr add 10.77.0.2/24 dev gv$$v1
for n in $a $b; do ip -n $n link set lo up; done
ip -n $a link set gv$$v0 up
ip -n $b link set gv$$v1 up

network() { # RATE of both directions; none: as fast as it goes
	ip netns exec $a tc qdisc del dev gv$$v0 root 2>/dev/null || true
	ip netns exec $b tc qdisc del dev gv$$v1 root 2>/dev/null || true
	[ "$1" = none ] && return
	ip netns exec $a tc qdisc add dev gv$$v0 root tbf rate "$1" burst 32kb latency 400ms || skip "this system has no tbf"
	ip netns exec $b tc qdisc add dev gv$$v1 root tbf rate "$1" burst 32kb latency 400ms
}

# A process on a host; what mpirun starts its daemon with; mpirun itself, on the first.
cat >"$T/on" <<END
#!/bin/sh
name=\$1
shift
exec ip netns exec \$name unshare -u sh -c 'hostname "\$0"; exec "\$@"' \$name "\$@"
END
cat >"$T/agent" <<END
#!/bin/sh
case "\$1" in 10.77.0.2) name=$b ;; *) name=$a ;; esac
shift
exec "$T/on" \$name sh -c "\$*"
END
cat >"$T/mpirun" <<END
#!/bin/sh
[ "\$1" != --version ] || exec mpirun --version
exec "$T/on" $a mpirun -H 10.77.0.1:1,10.77.0.2:1 --bind-to none --mca plm_rsh_agent "$T/agent" --mca btl tcp,self \\
	--mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 "\$@"
END
chmod +x "$T/on" "$T/agent" "$T/mpirun"
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OPT=-O1

model=tests/bench/gpt.gdl
args="--set=layers=4 --set=embed=128 --set=heads=4 --set=vocab=256 --set=batch=2 --set=seq=512"
for net in fast slow; do
	network "$([ $net = slow ] && echo 10mbit || echo none)"
	# shellcheck disable=SC2086
	timeout 200 "$PROF" $model $args --ranks 2 --threads 1 --nodes 2 --mpirun "$T/mpirun" --seconds=0.1 --machine -o "$T/$net" --quiet >"$T/$net.log" 2>&1 ||
		{ cat "$T/$net.log"; fail "gvprof over two hosts"; }
	grep -q 'nodes 2' "$T/$net.hw" || { cat "$T/$net.hw"; fail "no curve across nodes"; }
	# shellcheck disable=SC2086
	"$GV" $model $args --threads=1 --cluster "$T/$net.hw" --emit=plan >"$T/$net.plan" || fail "no plan for the $net network"
	sed "s/^/$net: /" "$T/$net.plan"
done
cmp -s "$T/fast.plan" "$T/slow.plan" && fail "the plan does not change with the network"

step() { # PROGRAM: median seconds of a step
	timeout 300 "$T/mpirun" -np 2 "$T/$1"/stage_* --data "$T/text" --json --steps 6 >"$T/$1.json" 2>"$T/$1.log" || { cat "$T/$1.log"; fail "running $1"; }
	grep -q '"transport":"mpi"' "$T/$1.json" || fail "the hosts share memory"
	sed -n 's/.*"step": *\([0-9]*\).*"seconds": *\([^,}]*\).*/\1 \2/p' "$T/$1.json" | awk '$1 > 1 { print $2 }' | sort -g | sed -n 3p
}
for net in fast slow; do
	# shellcheck disable=SC2086
	compile $net $model $args --plan "$T/$net.plan" --cluster "$T/slow.hw"
done
network 10mbit
fast=$(step fast) slow=$(step slow)
echo "over the slow network a step takes $slow s under the plan for it, $fast s under the plan for the fast one"
awk -v s="$slow" -v f="$fast" 'BEGIN { exit !(s < f) }' || fail "the plan for the slow network is not the faster one over it"
