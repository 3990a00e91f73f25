# Draws plan number K for tests/models/gpt.gdl or llama.gdl. Deterministic in K on every awk.
#
# usage: awk -v k=K -v family=gpt|llama -f tests/plans/draw.awk     prints: options, the properties drawn, then the plan
#
# Over any 12 consecutive K: ranks 1 2 3 4 6 8 twice; five with unequal stages, six with two meshes in one stage; vocab is
# prime and so padded wherever tp splits it, and there are batches that dp does not divide.
function rnd(n) { # 0 .. n-1
	seed = (seed * 16807) % 2147483647
	return int(seed / 2147483647 * n)
}
function pick(list, n, a) { n = split(list, a, " "); return a[1 + rnd(n)] }
function divisors(n, d, s) { for (d = 1; d <= n; d++) if (n % d == 0) s = s " " d; return s }
function range(a, n) { return n == 1 ? a : a "-" a + n - 1 }

# A degree of tp as one mesh axis, or as two of them where it has two factors.
function tp_text(tp, d, a) {
	for (d = 2; d < tp; d++) if (tp % d == 0) break
	if (d >= tp || rnd(2)) return "tp:" tp
	a = rnd(2) ? d : tp / d
	return "tp.0:" a " tp.1:" tp / a
}

# A factorisation of r ranks into a mesh; returns its name.
function mesh(r, avoid, tp, dp, text, tries) {
	do {
		do { tp = pick(divisors(r)); dp = r / tp } while (dp > batch / mb)
		text = "mb"
		if (r > 1) text = dp == 1 ? tp_text(tp) : tp == 1 ? "dp:" dp : rnd(2) ? "dp:" dp " " tp_text(tp) : tp_text(tp) " dp:" dp
		if (text != "mb") tp_of[text] = tp
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
	if (tp_of[text] > 1 && seq % tp_of[text] == 0 && rnd(2)) {
		runs = runs " megatron_sp"
		sp = 1
	}
	runs = runs "\n"
	if (tp_of[text] > 1 || (match(text, /dp:[0-9]+/) && (batch / mb) % substr(text, RSTART + 3, RLENGTH - 3)))
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
	# what this plan must have, so that any dozen of them has enough of each kind
	want_unequal = ranks > 1 && (k + int(k / 6)) % 2 == 0
	want_meshes = ranks > 1 && (!want_unequal || (ranks > 2 && int(k / 2) % 2))
	batch = pick("6 8 9 10 12")
	do mb = pick(divisors(batch)); while (mb > 6 || (want_meshes && batch / mb < 3))
	seq = pick("11 12 13 18")
	sets = "--set batch=" batch " --set seq=" seq " --set layers=" layers
	if (family == "gpt") { heads = pick("4 5 6"); sets = sets " --set heads=" heads " --set embed=" heads * 7 }
	else { kv = pick("2 3 4"); sets = sets " --set kv=" kv }
	do {
		stages = want_unequal ? 2 + (ranks >= 4 && rnd(2)) : ranks >= 4 && rnd(2) ? 2 : 1
		left = ranks
		at = layer = unequal = room = 0
		for (s = 0; s < stages; s++) {
			last = s == stages - 1
			r[s] = last ? left : 1 + rnd(left - (stages - 1 - s))
			c[s] = last ? n - layer : 1 + rnd(n - layer - (stages - 1 - s))
			if (s && (r[s] != r[s - 1] || c[s] != c[s - 1])) unequal = 1
			if (r[s] >= 2 && c[s] >= 2) room = 1
			left -= r[s]; layer += c[s]
		}
	} while ((want_unequal && !unequal) || (want_meshes && !room))
	at = layer = 0
	for (s = 0; s < stages; s++) {
		lines = lines "stage " s " layers " range(layer, c[s]) " ranks " range(at, r[s]) "\n"
		if (c[s] >= 2 && r[s] >= 2 && want_meshes) {
			cut = 1 + rnd(c[s] - 1)
			one = run(layer, cut, r[s], "")
			two = run(layer + cut, c[s] - cut, r[s], one)
			if (one != two) two_meshes = 1
		} else
			run(layer, c[s], r[s], "")
		at += r[s]; layer += c[s]
	}
	print sets
	print "ranks " ranks " unequal " unequal + 0 " meshes " two_meshes + 0 " padded " padded + 0 " sp " sp + 0 " stages " stages
	print "plan 1\nmodel " family "\nranks " ranks " threads 1 microbatches " mb " schedule " pick("1f1b 1f1b gpipe")
	print "mesh m0 = mb"
	for (i = 1; i <= nmesh; i++) print "mesh m" i " = " meshes[i]
	printf "%s%s", lines, runs
}
