#!/bin/bash
# The manifest of communication (src/traffic) is what is sent, to the byte: random plans over MPI, counted call by call by
# a shim between the program and MPI (tests/plans/shim.c), and over shared memory by the runtime's own counters.
. tests/lib.sh
. tests/mpi.sh
command -v mpicc >/dev/null || skip "mpicc is not installed"
text
mpicc -shared -fPIC -O1 -Wall -Wextra -Werror -o "$T/shim.so" tests/plans/shim.c || fail "shim.c"
count=${PLANS:-3} first=${PLANS_FIRST:-}
[ -n "$first" ] || first=$((0x$(git rev-parse HEAD 2>/dev/null | cut -c1-6 || echo 0)))

# listed PROGRAM RANK: what the manifest says of a rank, in the form in which it is counted.
listed() {
	awk -v rank="$2" '$1 == "stage" { split($4, r, "-"); if (r[1] > rank || r[2] < rank) next
		line = $5; for (k = 6; $k != "calls"; k++) line = line " " $k; print line, $(k + 1), $(k + 3) }' "$T/$1/src/traffic" | sort
}

# shimmed STEPS: counts of the whole run, for every rank.
shimmed() {
	SHIM=$T/shim.$1 SHIM_STAGES=$(awk '/^stage/ { split($6, r, "-"); printf "%s%s", sep, r[1]; sep = "," }' "$T/p.plan") \
		GVRT_TRANSPORT=mpi LD_PRELOAD=$T/shim.so mpi "$ranks" "$T/many"/stage_* --data "$T/text" --order sequential \
		--quiet --steps "$1" >"$T/out" 2>&1 || { cat "$T/out"; fail "plan $k under the shim"; }
}

# One step: the difference of two runs of which one goes a step further.
step_of() {
	awk 'NR == FNR { n[$0] = 0; key = $1; for (k = 2; k <= NF - 2; k++) key = key " " $k; c[key] = $(NF - 1); b[key] = $NF; next }
		{ key = $1; for (k = 2; k <= NF - 2; k++) key = key " " $k
		if ($(NF - 1) != c[key]) print key, $(NF - 1) - c[key], $NF - b[key] }' "$T/shim.1.$1" "$T/shim.2.$1" | sort
}

one() {
	local family=gpt sets ranks
	[ $((k % 2)) = 0 ] || family=llama
	awk -v k="$k" -v family=$family -f tests/plans/draw.awk >"$T/drawn"
	sets=$(sed -n 1p "$T/drawn")
	sed -n '3,$p' "$T/drawn" >"$T/p.plan"
	ranks=$(awk '/^ranks/ { print $2; exit }' "$T/p.plan")
	[ "$ranks" -gt 1 ] || return 0
	compile many tests/models/$family.gdl $sets --plan="$T/p.plan"
	shimmed 1
	shimmed 2
	GVRT_TRANSPORT=window GVRT_TRAFFIC=$T/own mpi "$ranks" "$T/many"/stage_* --data "$T/text" --order sequential --quiet --steps 2 \
		>"$T/out" 2>&1 || { cat "$T/out"; fail "plan $k"; }
	for rank in $(seq 0 $((ranks - 1))); do
		listed many "$rank" >"$T/listed"
		step_of "$rank" >"$T/counted"
		cmp -s "$T/listed" "$T/counted" || { diff "$T/listed" "$T/counted"; fail "plan $k, rank $rank: the manifest and MPI"; }
		sed 's/^exchange/send/' "$T/own.$rank" | sort >"$T/counted"
		grep -v '^recv' "$T/listed" | diff - "$T/counted" || fail "plan $k, rank $rank: the manifest and the runtime"
	done
	echo "plan $k: $ranks ranks, $(awk '/^stage/ { c += $(NF - 2); b += $NF } END { print c " calls, " b " bytes" }' "$T/many/src/traffic") a step, as listed"
	rm -rf "$T/many" "$T"/shim.[12]* "$T"/own.*
}

k=$first
while [ "$k" -lt $((first + count)) ]; do
	one
	k=$((k + 1))
done
