# awk -f solve_check.awk TABLE ANSWER: reckons the plan of an answer again; prints "objective bound", or what is wrong.
function wrong(what) { print what; bad = 1; exit 1 }
FNR == 1 { file++ }
{ sub(/#.*/, "") }
file == 1 && $1 == "stages" { p = $2 }
file == 1 && $1 == "microbatches" { m = $2 }
file == 1 && $1 == "budget" { for (s = 0; s < p; s++) budget[s] = $(s + 2) }
file == 1 && $1 == "layers" { for (i = 2; i <= NF; i++) { split($i, x, ":"); while (x[2]-- > 0) type[n++] = x[1] } }
file == 1 && $1 == "partition" { for (s = 0; s < p; s++) fixed[s] = $(s + 2); given = 1 }
file == 1 && $1 == "time" { time[$2, $3] = $4; once[$2, $3] = $5 }
file == 1 && $1 == "mem" { for (s = 0; s < p; s++) mem[$2, $3, s] = $(s + 4) }
file == 1 && $1 == "move" { move[$2, $3] = $4 }
file == 1 && $1 == "head" { for (s = 0; s < p; s++) { htime[$2, s] = $(s + 3); hmem[$2, s] = $(s + 3 + p) } }
file == 2 && $1 == "objective" { said = $2 }
file == 2 && $1 == "bound" { bound = $2 }
file == 2 && $1 == "head" { head = $2 }
file == 2 && $1 == "partition" { for (s = 0; s < p; s++) layers[s] = $(s + 2); if (NF != p + 1) wrong("partition of " NF - 1) }
file == 2 && $1 == "plan" { for (i = 2; i <= NF; i++) { split($i, x, "x"); while (x[2]-- > 0) plan[planned++] = x[1] } }
END {
	if (bad) exit 1
	if (planned != n) wrong("a plan of " planned " of " n " layers")
	for (s = l = 0; s < p; s++) {
		t = htime[head, s]; g = 0; need = hmem[head, s]
		if (layers[s] < 1 || (given && layers[s] != fixed[s])) wrong("stage " s " has " layers[s] " layers")
		for (i = 0; i < layers[s]; i++) {
			k = plan[l]
			if (!((type[l], k) in time)) wrong("layer " l " may not take strategy " k)
			t += time[type[l], k] + (i ? move[plan[l - 1], k] : 0)
			g += once[type[l], k]
			need += mem[type[l], k, s]
			l++
		}
		if (need > budget[s] * (1 + 1e-12)) wrong("stage " s " takes " need " of " budget[s])
		sum += t
		if (t > max) max = t
		if (g > sync) sync = g
	}
	is = sum + (m - 1) * max + sync
	if (is - said > 1e-9 * is || said - is > 1e-9 * is) wrong("says " said ", is " is)
	if (bound > is * (1 + 1e-9) || bound < is * 0.98) wrong("bound " bound " of " is)
	printf "%.17g %.17g\n", said, bound
}
