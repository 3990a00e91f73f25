# Draws a table for galvatronc --solve: awk -v seed=N [-v stages=P] [-v layers=L] [-v strategies=K] -f solve_draw.awk
# One to three types of layers; strategies in groups between which a layout changes, each trading time for memory in steps,
# about; earlier stages keep more microbatches; budgets between what the smallest and the fastest plan take, about.
function draw(n) { return int(rand() * n) }
function between(a, b) { return a + (b - a) * rand() }
BEGIN {
	srand(seed)
	p = stages ? stages : 2 ^ draw(4)
	n = layers ? layers : p + draw(8) * 4 + 4
	k = strategies ? strategies : 2 + draw(27)
	types = 1 + draw(3)
	groups = 1 + draw(4)
	heads = 1 + draw(14)
	m = 1 + draw(32)
	whole = draw(2) # MB without fractions
	printf "solve 1\nname drawn-%d\nstages %d\nmicrobatches %d\n", seed, p, m
	for (i = 0; i < k; i++) printf "strategy %d s%d\n", i, i
	left = n
	printf "layers"
	for (t = 0; t < types; t++) {
		count = t == types - 1 ? left : 1 + draw(left - (types - t - 1))
		if (count < 1) count = 1
		left -= count
		printf " t%d:%d", t, count
		of[t] = count
		if (left <= 0) { types = t + 1; break }
	}
	printf "\n"
	for (i = 0; i < k; i++) {
		group[i] = draw(groups)
		trade[i] = rand() # 0: fast and large, 1: slow and small
		shape[i] = between(0.9, 1.1)
	}
	for (t = 0; t < types; t++) {
		base = between(0.005, 0.06); state = between(100, 2000); saved = between(200, 4000)
		least = 1e30; most = 0
		for (i = 0; i < k; i++) {
			time = base * (1 + 0.6 * trade[i] ^ 1.5) * shape[i]
			printf "time t%d %d %.17g %.17g\n", t, i, time, draw(3) ? base * rand() * 0.3 : 0
			printf "mem t%d %d", t, i
			for (s = 0; s < p; s++) {
				flight = p - s < m ? p - s : m
				mem = state * (1 - 0.7 * trade[i] * rand()) + saved * (1 - 0.95 * trade[i]) * flight
				printf whole ? " %d" : " %.3f", mem
				if (s == 0 && mem < least) least = mem
				if (s == 0 && mem > most) most = mem
			}
			printf "\n"
		}
		low += least * of[t] / p; high += most * of[t] / p
	}
	limit = between(low, high) + 1500
	printf "budget"
	for (s = 0; s < p; s++) printf whole ? " %d" : " %.2f", limit * (seed % 2 ? 1 : between(0.8, 1.2))
	printf "\n"
	for (g = 0; g < groups; g++) for (h = 0; h < groups; h++) change[g, h] = between(0.0002, 0.004)
	for (i = 0; i < k; i++) for (j = 0; j < k; j++)
		if (group[i] != group[j]) printf "move %d %d %.17g\n", i, j, change[group[i], group[j]]
	for (e = 0; e < heads; e++) {
		printf "head %d", e
		for (s = 0; s < p; s++) printf " %.17g", s == 0 || s == p - 1 ? between(0.01, 0.03) : 0
		for (s = 0; s < p; s++) printf whole ? " %d" : " %.3f", s == 0 || s == p - 1 ? between(300, 3000) : 0
		printf "\n"
	}
}
