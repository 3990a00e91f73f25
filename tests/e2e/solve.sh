#!/bin/bash
# galvatronc --solve on drawn tables: plans fit and take what they say, bounds hold and are close, a free partition is never worse
# than a fixed one, the same table gives the same bytes; a larger budget is never worse; what does not fit has exit status 3.
. tests/lib.sh
answer() { # FILE OUT: solves, checks the answer against the table; prints "objective bound"
	"$GV" --solve "$1" >"$2" 2>"$T/err"
	local status=$?
	[ $status = 3 ] && grep -qx infeasible "$2" && { echo "inf inf"; return; }
	[ $status = 0 ] || { cat "$T/err"; return 1; }
	awk -f tests/e2e/solve_check.awk "$1" "$2"
}
fitting=0
for seed in $(seq 1 "${CHECK_ALL:+1}20"); do
	awk -v seed="$seed" -f tests/e2e/solve_draw.awk >"$T/free.solve"
	answer "$T/free.solve" "$T/free" >"$T/of" || fail "table $seed: $(cat "$T/of")"
	"$GV" --solve "$T/free.solve" | cmp -s - "$T/free" || fail "table $seed: twice is not the same"
	read -r free bound <"$T/of"
	awk '/^stages/ { p = $2 } /^layers/ { for (i = 2; i <= NF; i++) { split($i, x, ":"); n += x[2] } } { print }
		END { printf "partition"; for (s = 0; s < p; s++) printf " %d", int((s + 1) * n / p) - int(s * n / p); print "" }' \
		"$T/free.solve" >"$T/fixed.solve"
	answer "$T/fixed.solve" "$T/fixed" >"$T/of" || fail "table $seed, fixed: $(cat "$T/of")"
	read -r fixed bound <"$T/of"
	awk '/^budget/ { for (i = 2; i <= NF; i++) $i *= 1.3 } { print }' "$T/free.solve" >"$T/more.solve"
	answer "$T/more.solve" "$T/more" >"$T/of" || fail "table $seed, more memory: $(cat "$T/of")"
	read -r more bound <"$T/of"
	for pair in "$free $fixed" "$more $free"; do
		# shellcheck disable=SC2086
		set -- $pair
		[ "$2" = inf ] && continue
		[ "$1" != inf ] && awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b * (1 + 1e-9)) }' ||
			fail "table $seed: free $free, fixed $fixed, with more memory $more"
	done
	[ "$free" != inf ] && fitting=$((fitting + 1))
done
[ "$fitting" -gt 5 ] || fail "only $fitting tables have a plan"
