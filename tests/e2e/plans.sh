#!/bin/bash
# Any plan equals one rank: random plans (tests/plans/draw.awk) for a GPT and a LLaMA of four layers or more with odd sizes, on
# 1, 2, 3, 4, 6 and 8 ranks. The interpreter at every level, ranks in turn and in an adversarial order, and the emitted
# programs over 20 steps, dead buffers poisoned, against one rank; half with clipping active. PLANS=N draws N: 16, which are
# every commit's own, or with CHECK_ALL=1 a hundred, from number 0 on (tests/plans/LOG).
. tests/lib.sh
. tests/mpi.sh
text
count=${PLANS:-16} first=${PLANS_FIRST:-}
[ -z "${CHECK_ALL:-}" ] || { count=${PLANS:-100} first=${first:-0}; }
[ -n "$first" ] || { commit=$(git rev-parse HEAD 2>/dev/null || echo 0) && first=$((0x${commit:0:6})); }
log=${PLANS_LOG:-$T/log}
: >"$log"

# one K: draws, compares, adds a line to the log.
one() {
	local k=$1 family=gpt file plan sets precision=f64 loss=1e-9 params=1e-9 norm=1e-9 clip=on
	[ $((k % 2)) = 0 ] || family=llama
	[ $((k / 2 % 2)) = 0 ] || { precision=f32 loss=1e-5 params=1e-4 norm=5e-3; } # near a minimum a float32 norm is mostly rounding
	awk -v k="$k" -v family=$family -f tests/plans/draw.awk >"$T/drawn"
	sets=$(sed -n 1p "$T/drawn") plan=$T/p.plan file=$T/$family.gdl
	sed -n '3,$p' "$T/drawn" >"$plan"
	if [ $((k / 4 % 2)) = 0 ]; then cp tests/models/$family.gdl "$file"; else
		clip=off
		sed 's/clip = 0.5/clip = 1e9/' tests/models/$family.gdl >"$file"
	fi
	interpreted "$file" $sets --precision=f64 --steps=3 --stop-after=optimizer >"$T/want"
	for level in spmd sched mem; do
		interpreted "$file" $sets --plan="$plan" --precision=f64 --steps=3 --stop-after=$level >"$T/have"
		agree "$T/have" "$T/want" 1e-11
	done
	interpreted "$file" $sets --plan="$plan" --precision=f64 --steps=3 --order="$k" >"$T/have"
	agree "$T/have" "$T/want" 1e-11
	compile one "$file" $sets --precision=$precision --threads=1
	compile many "$file" $sets --precision=$precision --plan="$plan"
	losses one --steps 20 --checkpoint "$T/one.ck" >"$T/want"
	GVRT_POISON=1 ranks=$(awk '/^ranks/ { print $2; exit }' "$plan") losses_of many --steps 20 --checkpoint "$T/many.ck" >"$T/have"
	agree "$T/have" "$T/want" $loss $norm
	off=$("$BUILD/tests/plans/compare" "$T/one.ck/step-20/model.safetensors" "$T/many.ck/step-20/model.safetensors" $params) ||
		fail "plan $k: $off"
	echo "plan $k $family $precision clip $clip $(sed -n 2p "$T/drawn"): $off" | tee -a "$log"
	rm -rf "$T/one" "$T/many" "$T/one.ck" "$T/many.ck"
}

i=0
while [ $i -lt "$count" ]; do
	one $((first + i)) || exit 1
	i=$((i + 1))
done
awk '{ n++; u += $10; m += $12; p += $14; c += $6 == "on" } END {
	print n " plans: " u " with unequal stages, " m " with two meshes in a stage, " p " with padded axes, " c " with clipping active"
	if (n >= 12 && (u * 3 < n || m * 3 < n || p * 4 < n || c * 2 < n - 3)) { print "too few of a kind"; exit 1 } }' "$log"
