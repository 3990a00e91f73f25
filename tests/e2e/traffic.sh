#!/bin/bash
# What is predicted is what happens, for random plans (tests/plans/draw.awk) that together have every ZeRO level, stages, split
# sequences and two meshes in a stage. Traffic: what one step gives MPI, counted by a library in front of it (plans/shim.c), is
# DIR/src/traffic to the call and byte, and so is what the runtime counts over either transport. Memory: the arena that the
# search and the summary print, that the source holds and that the program maps are one number on every rank. Dead buffers
# filled with NaN, and messages sent synchronously, change no bit. PLANS=N takes N plans of any kind.
. tests/lib.sh
. tests/mpi.sh
text
export OPT=-O1 GVRT_PEAK=0 OMP_NUM_THREADS=1
command -v mpicc >/dev/null || skip "mpicc is not installed"
mpicc -shared -fPIC -O1 -Wall -Wextra -Werror -o "$T/shim.so" tests/plans/shim.c -ldl || fail "shim.c"
[ -z "${CHECK_ALL:-}" ] || PLANS=${PLANS:-24}

# listed RANK: what the manifest says of a rank, in the form in which it is counted.
listed() {
	awk -v rank="$1" '$1 == "stage" { split($4, r, "-"); if (r[1] > rank || r[2] < rank) next
		line = $5; for (k = 6; $k != "calls"; k++) line = line " " $k; print line, $(k + 1), $(k + 3) }' "$T/many/src/traffic" | sort
}

# One step as rank $1 gave it to MPI: the difference of two runs of which one goes a step further.
step_of() {
	awk '$1 == "mapped" { next } { key = $1; for (k = 2; k <= NF - 2; k++) key = key " " $k }
		NR == FNR { c[key] = $(NF - 1); b[key] = $NF; next }
		$(NF - 1) != c[key] { print key, $(NF - 1) - c[key], $NF - b[key] }' "$T/shim.2.$1" "$T/shim.3.$1" | sort
}

# shimmed STEPS: losses; counts of the whole run, for every rank, in $T/shim.STEPS.RANK
shimmed() {
	SHIM=$T/shim.$1 SHIM_STAGES=$(awk '/^stage/ { split($6, r, "-"); printf "%s%s", sep, r[1]; sep = "," }' "$T/p.plan") \
		LD_PRELOAD=$T/shim.so losses_of many --steps "$1"
}

same() { # what, have, want
	cmp -s "$2" "$3" || { echo "have:"; cat "$2"; echo "want:"; cat "$3"; fail "$1"; }
}

check_traffic() {
	local r t
	for r in $(seq 0 $((ranks - 1))); do
		listed "$r" >"$T/want"
		step_of "$r" >"$T/have"
		same "plan $k: traffic of rank $r, as MPI sees it" "$T/have" "$T/want"
		grep -v '^recv' "$T/want" >"$T/want.sent"
		for t in mpi window; do
			sed 's/^exchange/send/' "$T/$t.$r" | sort >"$T/have"
			same "plan $k: traffic of rank $r, as the runtime counts it over $t" "$T/have" "$T/want.sent"
		done
	done
	# what is sent is received
	awk '$5 == "send" || $5 == "recv" { split($4, at, "-"); s[$5] += $NF * (at[2] - at[1] + 1) } END { exit s["send"] != s["recv"] }' "$T/many/src/traffic" ||
		fail "plan $k: more is sent than received, or less"
}

# Planned, in the source, in the summary, mapped by every rank (with room to begin at a cache line or a huge page).
check_memory() {
	local s=0 planned first n size text
	"$GV" $options --emit=mem | awk '$1 == "arena" { print $2 }' >"$T/arenas"
	"$GV" $options -o "$T/many" | sed -n 's/.* \([0-9.]* [KMGT]*i*B\) a rank: .*/\1/p' >"$T/printed"
	[ "$(wc -l <"$T/arenas")" = "$(awk '/^stage/' "$T/p.plan" | wc -l)" ] || fail "plan $k: not one arena a stage"
	while read -r planned; do
		text=$(sed -n 's/.*whole arena *\([0-9,]*\) bytes.*/\1/p' "$T/many/src/stage_$s.c" | tr -d ,)
		[ "$text" = "$planned" ] || fail "plan $k: stage $s has an arena of $planned bytes planned and $text in its source"
		awk -v b="$planned" 'BEGIN { split("B KiB MiB GiB", u, " "); for (i = 1; b >= 1024; i++) b /= 1024; printf (i > 1 ? "%.2f %s\n" : "%.0f %s\n"), b, u[i] }' >"$T/want"
		sed -n $((s + 1))p "$T/printed" >"$T/have"
		same "plan $k: memory of stage $s, printed" "$T/have" "$T/want"
		read -r first n < <(awk -v s=$s '$1 == "stage" && $2 == s { sub(/.* ranks /, ""); split($1, at, "-"); print at[1], (at[2] == "" ? 1 : at[2] - at[1] + 1) }' "$T/p.plan")
		size=$((planned >= 2097152 ? planned + 2097152 : planned + 64))
		for r in $(seq "$first" $((first + n - 1))); do
			grep -qx "mapped $size" "$T/shim.3.$r" || { cat "$T/shim.3.$r"; fail "plan $k: rank $r maps no arena of $planned bytes"; }
		done
		s=$((s + 1))
	done <"$T/arenas"
}

one() {
	local family=gpt precision=f32 sets
	[ $((k % 2)) = 0 ] || family=llama
	[ $((k / 2 % 2)) = 0 ] || precision=f64
	sed -n '3,$p' "$T/drawn" >"$T/p.plan"
	sets=$(sed -n 1p "$T/drawn")
	ranks=$(awk '/^ranks/ { print $2; exit }' "$T/p.plan")
	options="tests/models/$family.gdl $sets --precision=$precision --plan=$T/p.plan"
	rm -rf "$T/many" "$T"/shim.[23]*
	compile many $options
	GVRT_TRAFFIC=$T/window losses_of many --steps 3 >"$T/plain"
	GVRT_POISON=1 losses_of many --steps 3 >"$T/poisoned"
	cmp "$T/plain" "$T/poisoned" || fail "plan $k: a buffer that the plan calls dead is read"
	export GVRT_TRANSPORT=mpi
	shimmed 2 >/dev/null
	GVRT_TRAFFIC=$T/mpi shimmed 3 >"$T/mpi"
	GVRT_SYNC_SEND=1 GVRT_POISON=1 losses_of many --steps 3 >"$T/synchronous"
	unset GVRT_TRANSPORT
	cmp "$T/mpi" "$T/synchronous" || fail "plan $k: synchronous messages, or NaN in dead buffers, change the result"
	check_traffic
	check_memory
	echo "plan $k $family $precision $(sed -n 2p "$T/drawn"): $(wc -l <"$T/many/src/traffic") lines of traffic, arenas of $(tr '\n' ' ' <"$T/arenas")bytes"
}

# What plan $T/drawn has of what is wanted, one word each.
features() {
	sed -n 's/.* zero \([1-3]\) .*/zero\1/p; s/.*megatron_sp.*/sp/p' "$T/drawn" | sort -u
	sed -n 's/.*meshes 1.*/meshes/p; s/.*unequal 1.*/unequal/p' "$T/drawn"
}

k=${PLANS_FIRST:-$((0x$(git rev-parse HEAD 2>/dev/null | cut -c1-6 || echo 0)))}
done=0 wanted="zero1 zero2 zero3 sp meshes unequal "
while [ "$done" -lt "${PLANS:-5}" ] && { [ -n "${PLANS:-}" ] || [ -n "$wanted" ]; }; do
	k=$((k + 1))
	awk -v k=$k -v family=$([ $((k % 2)) = 0 ] && echo gpt || echo llama) -f tests/plans/draw.awk >"$T/drawn"
	ranks=$(awk '/^ranks/ { print $2; exit }' "$T/drawn")
	new=0 rest=$wanted
	for f in $(features); do
		case " $rest" in *" $f "*) rest=${rest/$f /} new=$((new + 1)) ;; esac
	done
	# at least two new ones at a time while there are as many: few plans, and all of it
	left=$(echo "$wanted" | wc -w)
	if [ -n "${PLANS:-}" ]; then [ "$ranks" -gt 1 ] || continue
	elif [ "$new" = 0 ] || { [ "$new" = 1 ] && [ "$left" -gt 1 ]; }; then continue; fi
	wanted=$rest done=$((done + 1))
	one
done

# Where the plan is searched for: what --explain says a rank takes is the largest arena of the stages.
for file in gpt llama; do
	for ranks in 2 3 4 8; do
		rm -rf "$T/searched"
		"$GV" tests/models/$file.gdl --set layers=6 --set batch=12 --ranks=$ranks --explain -o "$T/searched" >"$T/said" 2>&1
		most=$("$GV" tests/models/$file.gdl --set layers=6 --set batch=12 --ranks=$ranks --emit=mem |
			awk '$1 == "arena" && $2 > most { most = $2 } END { b = most; split("B KiB MiB GiB", u, " "); for (i = 1; b >= 1024; i++) b /= 1024; printf (i > 1 ? "%.2f %s\n" : "%.0f %s\n"), b, u[i] }')
		grep -q "; memory of stage [0-9]*: $most of " "$T/said" || { cat "$T/said"; fail "$file on $ranks ranks: the search did not say $most"; }
	done
done
echo "searched for: the search's figure is the arena"
