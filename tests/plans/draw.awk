# Draws plan number K for tests/models/gpt.gdl or llama.gdl. Deterministic in K on every awk.
#
# usage: awk -v k=K -v family=gpt|llama -f tests/plans/draw.awk     prints: options, the properties drawn, then the plan
#
# Over any 12 consecutive K: ranks 1 2 3 4 6 8 twice; with three ranks or more, two unequal stages or more in most and two
# meshes in one stage in most; vocab is prime and so padded wherever tp is; batches that dp does not divide.
function rnd(n) { # 0 .. n-1
	seed = (seed * 16807) % 2147483647
	return int(seed / 2147483647 * n)
}
function pick(list, n, a) { n = split(list, a, " "); return a[1 + rnd(n)] }
function divisors(n, d, s) { for (d = 1; d <= n; d++) if (n % d == 0) s = s " " d; return s }
function range(a, n) { return n == 1 ? a : a "-" a + n - 1 }

# A factorisation of r ranks into a mesh; returns its name.
function mesh(r, avoid, tp, dp, text, tries) {
	do {
		do { tp = pick(divisors(r)); dp = r / tp } while (dp > batch / mb)
		text = "mb"
		if (r > 1) text = dp == 1 ? "tp:" tp : tp == 1 ? "dp:" dp : rnd(2) ? "dp:" dp " tp:" tp : "tp:" tp " dp:" dp
	} while (text == avoid && ++tries < 20)
	if (text == "mb") return "m0"
	for (i = 1; i <= nmesh; i++) if (meshes[i] == text) return "m" i
	meshes[++nmesh] = text
	return "m" nmesh
}

function run(first, n, r, avoid, m, z, text) {
	m = mesh(r, avoid)
	text = m == "m0" ? "" : meshes[substr(m, 2)]
	z = text ~ /dp:/ ? rnd(4) : 0
	runs = runs "layers " range(first, n) " mesh " m " zero " z " recompute " pick("none selective full")
	if (match(text, /tp:[0-9]+/) && seq % substr(text, RSTART + 3, RLENGTH - 3) == 0 && rnd(2)) {
		runs = runs " megatron_sp"
		sp = 1
	}
	runs = runs "\n"
	if (text ~ /tp:/ || (match(text, /dp:[0-9]+/) && (batch / mb) % substr(text, RSTART + 3, RLENGTH - 3)))
		padded = 1
	return text
}

BEGIN {
	seed = (k * 48271 * 7919 + 12345) % 2147483646 + 1
	for (i = 0; i < 20; i++) rnd(2)
	split("1 2 3 4 6 8", all, " ")
	ranks = all[1 + k % 6]
	layers = 4 + rnd(2)
	n = layers + 2
	batch = pick("6 8 9 10 12")
	mb = pick(divisors(batch))
	if (mb > 6) mb = 2
	if (batch % mb) mb = 1
	seq = pick("11 12 13 18")
	sets = "--set batch=" batch " --set seq=" seq " --set layers=" layers
	if (family == "gpt") { heads = pick("4 5 6"); sets = sets " --set heads=" heads " --set embed=" heads * 7 }
	else { kv = pick("2 3 4"); sets = sets " --set kv=" kv }
	stages = ranks >= 3 && rnd(4) ? 2 + (ranks >= 4 && rnd(2)) : ranks == 2 && rnd(2) ? 2 : 1
	left = ranks
	at = layer = 0
	for (s = 0; s < stages; s++) {
		last = s == stages - 1
		r = last ? left : 1 + rnd(left - (stages - 1 - s))
		c = last ? n - layer : 1 + rnd(n - layer - (stages - 1 - s))
		if (s && (r != was_r || c != was_c)) unequal = 1
		was_r = r; was_c = c
		lines = lines "stage " s " layers " range(layer, c) " ranks " range(at, r) "\n"
		if (c >= 2 && r >= 2 && rnd(4)) {
			cut = 1 + rnd(c - 1)
			one = run(layer, cut, r, "")
			two = run(layer + cut, c - cut, r, one)
			if (one != two) two_meshes = 1
		} else
			run(layer, c, r, "")
		left -= r; at += r; layer += c
	}
	print sets
	print "ranks " ranks " unequal " unequal + 0 " meshes " two_meshes + 0 " padded " padded + 0 " sp " sp + 0 " stages " stages
	print "plan 1\nmodel " family "\nranks " ranks " threads 1 microbatches " mb " schedule " pick("1f1b 1f1b gpipe")
	print "mesh m0 = mb"
	for (i = 1; i <= nmesh; i++) print "mesh m" i " = " meshes[i]
	printf "%s%s", lines, runs
}
