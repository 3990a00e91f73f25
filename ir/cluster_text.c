/*
 * cluster_text.c - .hw: the text of a cluster, read and printed. README.md has the grammar.
 *
 * Input: any bytes, not trusted. One diagnostic a line, at the word that is wrong; 20 at most. What only the whole can
 * tell (a kind without memory, nodes without a network between them) is said at the line that needs it, when all lines
 * are read. Output: a Cluster whose every quantity can be divided by where that makes sense, and whose counts are bounded.
 */
#include "ir/cluster.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "ir/text.h"

enum { MAX_CURVES = 1 << 14, MAX_POINTS = 1 << 12, MAX_PROVENANCE = 1 << 8 };

static const char *const curve_str[PR_COUNT] = {[PR_all_reduce] = "all_reduce",
						[PR_reduce_scatter] = "reduce_scatter",
						[PR_all_gather] = "all_gather",
						[PR_all_to_all] = "all_to_all",
						[PR_exchange] = "message"};
static const char *const target_str[TG_COUNT] = {[TG_host] = "host", [TG_cuda] = "cuda"};
static const char *eff_str[EF_COUNT] = {
#define EFF(name, value, part, doc) [EF_##name] = #name,
#include "ir/eff.def"
};

/* Lines a device may have once each. */
typedef enum Part { P_memory, P_flops, P_bytes, P_loops, P_launch, P_overlap, P_COUNT } Part;

typedef struct Kind { /* where its lines are; 0: not there */
	Loc at, part[P_COUNT], eff[EF_COUNT], flops[DT_COUNT];
} Kind;

typedef struct Hw {
	Scan s;
	Arena *a;
	Cluster *c;
	Kind kind[MAX_KINDS];
	Loc name_at, *run_at, *curve_at;
	uint32_t cdevice, crun, ccurve, cprovenance, crun_at, ccurve_at, nrun_at, ncurve_at;
} Hw;

/* ---- devices ---- */

static bool
twice(Hw *h, Scan at, const char *what, Loc first)
{
	scan_fail(&at, "%s twice", what);
	diag_note(h->s.diag, first, "given here before");
	return false;
}

/* Remembers where a part is. False: it was there before. */
static bool
once(Hw *h, Scan at, const char *what, Loc *where)
{
	if (where->line) return twice(h, at, what, *where);
	*where = scan_loc(&at);
	return true;
}

static Device *
device_at(Hw *h)
{
	return &h->c->device[h->c->ndevice - 1];
}

static bool
known_device(Hw *h, uint32_t *out)
{
	Scan before = h->s;
	Buf known;
	Name name;

	if (!scan_name(&h->s, "the name of a device", &name)) return false;
	for (*out = 0; *out < h->c->ndevice; ++*out)
		if (h->c->device[*out].name == name) return true;
	buf_init(&known, h->a);
	for (uint32_t i = 0; i < h->c->ndevice; i++)
		buf_printf(&known, "%s%s", i ? ", " : "",
			   name_str(h->s.names, h->c->device[i].name));
	h->s = before;
	return scan_fail(&h->s, "no device '%s' above; %s%s", name_str(h->s.names, name),
			 known.n ? "known are " : "a device line comes first",
			 known.n ? known.s : "");
}

static bool
device_line(Hw *h)
{
	Scan at = h->s;
	Cluster *c = h->c;
	Device d = {.cores = 1};
	int target;

	if (!scan_name(&h->s, "the name of the device", &d.name)) return false;
	for (uint32_t i = 0; i < c->ndevice; i++)
		if (c->device[i].name == d.name)
			return twice(h, at, "a device of this name", h->kind[i].at);
	if (c->ndevice == MAX_KINDS)
		return scan_fail(&at, "more than %d kinds of devices", MAX_KINDS);
	if (!scan_pick_to(&h->s, WORDS("target", target_str), &target)) return false;
	d.target = (Target)target;
	if (d.target == TG_cuda && !scan_at_end(&h->s) &&
	    !scan_name(&h->s, "an architecture like sm_90", &d.arch))
		return false;
	if (d.target == TG_host && scan_try_key(&h->s, "cores") &&
	    !scan_u32(&h->s, "the number of cores", 1, 1 << 16, &d.cores))
		return false;
	for (int k = 0; k < EF_COUNT; k++)
		d.eff[k] = hw_eff[k].value;
	h->kind[c->ndevice] = (Kind){.at = scan_loc(&at)};
	PUSH(h->a, c->device, c->ndevice, h->cdevice, d);
	return true;
}

static bool
memory_line(Hw *h, Device *d)
{
	Scan at = h->s;

	if (!scan_bytes(&h->s, "the memory of a device", &d->memory)) return false;
	if (d->memory <= 0) return scan_fail(&at, "a device with no memory");
	if (scan_try_key(&h->s, "reserved")) {
		at = h->s;
		if (!scan_bytes(&h->s, "what is reserved of it", &d->reserved)) return false;
		if (d->reserved >= d->memory)
			return scan_fail(&at,
					 "%" PRId64
					 " bytes are reserved of a memory of %" PRId64
					 "; nothing is left",
					 d->reserved, d->memory);
	}
	return !scan_try_key(&h->s, "communicator") ||
	       scan_bytes(&h->s, "what a communicator takes of it", &d->comm_bytes);
}

static bool
flops_line(Hw *h, Device *d, Kind *k)
{
	do {
		Scan at = h->s;
		const char *word;
		char text[16];
		int len;
		DType dt;

		if (!scan_word(&h->s, "a data type", &word, &len)) return false;
		snprintf(text, sizeof text, "%.*s", len < 15 ? len : 15, word);
		dt = dtype_parse(text);
		if (!dtype_float(dt))
			return scan_fail(
			    &at, "expected a data type, bf16, f32 or f64, not '%s'", text);
		if (!once(h, at, "the FLOP/s of this data type", &k->flops[dt]) ||
		    !scan_rate(&h->s, "its FLOP/s", "FLOP", &d->flops[dt]))
			return false;
	} while (!scan_at_end(&h->s));
	return true;
}

static bool
efficiency_line(Hw *h, Device *d, Kind *k)
{
	do {
		Scan at = h->s, value;
		int e;

		if (!scan_pick_to(&h->s, WORDS("constant", eff_str), &e)) return false;
		value = h->s;
		if (!once(h, at, "this constant", &k->eff[e]) ||
		    !scan_num(&h->s, "the constant", &d->eff[e]))
			return false;
		if (!(d->eff[e] >= 0 && d->eff[e] <= 1e18))
			return scan_fail(&value, "%s cannot be below 0 or beyond 1e18",
					 eff_str[e]);
		if (hw_eff[e].part &&
		    !(d->eff[e] <= 1 && (d->eff[e] > 0 || hw_eff[e].part == 2)))
			return scan_fail(
			    &value, "%s is a part of a whole: %s1; it is the %s", eff_str[e],
			    hw_eff[e].part == 2 ? "0 to " : "above 0, at most ", hw_eff[e].doc);
	} while (!scan_at_end(&h->s));
	return true;
}

static bool
slow_down(Hw *h, const char *key, const char *what, double *out)
{
	Scan at;

	if (!scan_key(&h->s, key)) return false;
	at = h->s;
	if (!scan_num(&h->s, what, out)) return false;
	return (*out >= 1 && *out <= 1000) ||
	       scan_fail(&at,
			 "%s is how many times as long it takes beside the other: 1 to "
			 "1000",
			 what);
}

static bool
part_line(Hw *h, Part part)
{
	static const char *const of[P_COUNT] = {"memory", "FLOP/s", "bytes/s of memory",
						"loops",  "launch", "overlap"};
	Device *d = device_at(h);
	Kind *k = &h->kind[h->c->ndevice - 1];

	if (part != P_flops && !once(h, h->s, of[part], &k->part[part])) return false;
	switch (part) {
	case P_memory: return memory_line(h, d);
	case P_flops: k->part[part] = scan_loc(&h->s); return flops_line(h, d, k);
	case P_bytes: return scan_rate(&h->s, "bytes/s of memory", "B", &d->bytes);
	case P_loops: return scan_rate(&h->s, "elementwise operations/s", "", &d->loops);
	case P_launch: return scan_time(&h->s, "the time from kernel to kernel", &d->launch);
	case P_overlap:
		return slow_down(h, "compute", "a computation's slow-down", &d->slow_compute) &&
		       slow_down(h, "communication", "a communication's slow-down",
				 &d->slow_comm);
	case P_COUNT: break;
	}
	return false;
}

/* ---- nodes and curves ---- */

static bool
link_of(Hw *h, Link *l)
{
	return scan_time(&h->s, "the time before the first byte", &l->ns) &&
	       scan_rate(&h->s, "the link's bytes/s", "B", &l->bytes);
}

static bool
node_line(Hw *h)
{
	Scan at = h->s;
	Cluster *c = h->c;
	NodeRun r = {.rails = 1};

	if (!scan_u32(&h->s, "the number of nodes", 1, MAX_NODES, &r.nodes) ||
	    !scan_key(&h->s, "x") ||
	    !scan_u32(&h->s, "the number of devices", 1, MAX_DEVICES, &r.devices) ||
	    !known_device(h, &r.device))
		return false;
	if (scan_try_key(&h->s, "near") && !link_of(h, &r.near)) return false;
	if (scan_try_key(&h->s, "far") &&
	    (!link_of(h, &r.far) ||
	     (scan_try_key(&h->s, "rails") &&
	      !scan_u32(&h->s, "the number of rails", 1, 1 << 10, &r.rails))))
		return false;
	if (!scan_at_end(&h->s)) return scan_done(&h->s);
	if ((uint64_t)r.nodes * r.devices + c->devices > MAX_DEVICES ||
	    r.nodes + c->nodes > MAX_NODES)
		return scan_fail(&at,
				 "%" PRIu32 " x %" PRIu32 " devices and the %" PRIu32
				 " above are more than %d devices on %d nodes",
				 r.nodes, r.devices, c->devices, MAX_DEVICES, MAX_NODES);
	c->nodes += r.nodes;
	c->devices += r.nodes * r.devices;
	PUSH(h->a, c->run, c->nrun, h->crun, r);
	PUSH(h->a, h->run_at, h->nrun_at, h->crun_at, scan_loc(&at));
	return true;
}

static bool
point(Hw *h, CollCurve *v, uint32_t *cap)
{
	Scan at = h->s;
	int64_t bytes;
	double ns;

	if (!scan_bytes(&h->s, "the bytes of a point", &bytes) || !scan_punct(&h->s, ':') ||
	    !scan_time(&h->s, "the time of a point", &ns))
		return false;
	if (bytes < 1) return scan_fail(&at, "a point of no bytes");
	if (v->n && bytes <= v->bytes[v->n - 1])
		return scan_fail(&at,
				 "a point of %" PRId64 " bytes after one of %" PRId64
				 "; points go by rising bytes",
				 bytes, v->bytes[v->n - 1]);
	if (ns < 1) return scan_fail(&at, "a point that takes less than 1 ns");
	if (v->n == MAX_POINTS) return scan_fail(&at, "more than %d points", MAX_POINTS);
	if (v->n == *cap) {
		*cap = *cap ? 2 * *cap : 16;
		v->bytes = arena_grow(h->a, v->bytes, v->n, *cap, sizeof *v->bytes);
		v->ns = arena_grow(h->a, v->ns, v->n, *cap, sizeof *v->ns);
	}
	v->bytes[v->n] = bytes;
	v->ns[v->n++] = (int64_t)nearbyint(ns);
	return true;
}

static bool
same_curve(const CollCurve *a, const CollCurve *b)
{
	return a->kind == b->kind && a->device == b->device && a->ranks == b->ranks &&
	       a->nodes == b->nodes && a->stride == b->stride;
}

static bool
curve_line(Hw *h)
{
	Scan at = h->s, ranks, nodes;
	Cluster *c = h->c;
	CollCurve v = {.stride = 1};
	uint32_t cap = 0;
	int kind;

	if (!scan_pick_to(&h->s, WORDS("collective", curve_str), &kind) ||
	    !known_device(h, &v.device))
		return false;
	v.kind = (PrimKind)kind;
	ranks = h->s;
	if (!scan_key(&h->s, "ranks") ||
	    !scan_u32(&h->s, "the number of ranks", 2, MAX_DEVICES, &v.ranks))
		return false;
	if (v.kind == PR_exchange && v.ranks != 2)
		return scan_fail(&ranks, "a message has 2 ranks, not %" PRIu32, v.ranks);
	nodes = h->s;
	if (!scan_key(&h->s, "nodes") ||
	    !scan_u32(&h->s, "the number of nodes", 1, MAX_NODES, &v.nodes))
		return false;
	if (v.nodes > v.ranks)
		return scan_fail(&nodes, "%" PRIu32 " ranks cannot be on %" PRIu32 " nodes",
				 v.ranks, v.nodes);
	if (scan_try_key(&h->s, "stride") &&
	    !scan_u32(&h->s, "the stride", 1, MAX_DEVICES, &v.stride))
		return false;
	for (uint32_t i = 0; i < c->ncurve; i++)
		if (same_curve(&c->curve[i], &v))
			return twice(h, at, "a curve of this kind and group", h->curve_at[i]);
	if (c->ncurve == MAX_CURVES) return scan_fail(&at, "more than %d curves", MAX_CURVES);
	if (!scan_punct(&h->s, ':')) return false;
	do
		if (!point(h, &v, &cap)) return false;
	while (!scan_at_end(&h->s));
	PUSH(h->a, c->curve, c->ncurve, h->ccurve, v);
	PUSH(h->a, h->curve_at, h->ncurve_at, h->ccurve_at, scan_loc(&at));
	return true;
}

/* ---- the whole ---- */

static bool
provenance_line(Hw *h)
{
	Scan at = h->s;
	Name text;

	if (!scan_string(&h->s, "a quoted text", &text)) return false;
	if (h->c->nprovenance == MAX_PROVENANCE)
		return scan_fail(&at, "more than %d lines of provenance", MAX_PROVENANCE);
	PUSH(h->a, h->c->provenance, h->c->nprovenance, h->cprovenance, text);
	return true;
}

static bool
line(Hw *h)
{
	static const char *const words[] = {"cluster",    "device",     "node",   "curve",
					    "provenance", "efficiency", "memory", "flops",
					    "bytes",      "loops",      "launch", "overlap"};
	enum { L_cluster, L_device, L_node, L_curve, L_provenance, L_efficiency, L_part };
	Scan at = h->s;
	int which;

	if (!scan_pick_to(&h->s, WORDS("line", words), &which)) return false;
	if (which >= L_efficiency && !h->c->ndevice)
		return scan_fail(&at, "of which device? a device line comes first");
	switch (which) {
	case L_cluster:
		return once(h, at, "the name of the cluster", &h->name_at) &&
		       scan_name(&h->s, "the name of the cluster", &h->c->name);
	case L_device: return device_line(h);
	case L_node: return node_line(h);
	case L_curve: return curve_line(h);
	case L_provenance: return provenance_line(h);
	case L_efficiency: return efficiency_line(h, device_at(h), &h->kind[h->c->ndevice - 1]);
	default: return part_line(h, (Part)(which - L_part));
	}
}

static void
check_devices(Hw *h)
{
	for (uint32_t i = 0; i < h->c->ndevice; i++) {
		const Device *d = &h->c->device[i];
		const char *lacks = !d->memory          ? "memory 80GB"
				    : !d->flops[DT_f32] ? "flops f32 19.5TFLOP/s"
				    : !d->bytes         ? "bytes 2TB/s"
				    : !d->loops         ? "loops 10T/s"
							: NULL;
		if (lacks)
			diag_error(h->s.diag, h->kind[i].at,
				   "device '%s' lacks a line like `%s`",
				   name_str(h->s.names, d->name), lacks);
	}
}

static void
check_nodes(Hw *h)
{
	const Cluster *c = h->c;

	for (uint32_t i = 0; i < c->nrun; i++) {
		const NodeRun *r = &c->run[i];

		if (r->devices > 1 && !r->near.bytes)
			diag_error(h->s.diag, h->run_at[i],
				   "%" PRIu32 " devices in a node and nothing between them; "
				   "add `near TIME RATE`, as in near 3us 300GB/s",
				   r->devices);
		if (c->nodes > 1 && !r->far.bytes)
			diag_error(h->s.diag, h->run_at[i],
				   "%" PRIu32 " nodes in all and no network between them; "
				   "add `far TIME RATE`, as in far 10us 100GB/s",
				   c->nodes);
	}
	for (uint32_t i = 1; i < c->nrun; i++)
		if (c->device[c->run[i].device].target != c->device[c->run[0].device].target) {
			diag_error(
			    h->s.diag, h->run_at[i],
			    "nodes of host and of cuda devices in one cluster; a program "
			    "is compiled for one of them");
			break;
		}
	if (!c->nrun)
		diag_error(h->s.diag, (Loc){c->file, h->s.lineno ? h->s.lineno : 1, 1, 1},
			   "a cluster without nodes; add a line like `node 1 x 8 NAME`");
}

/* The most devices of a kind that a node has. */
static uint32_t
most_in_node(const Cluster *c, uint32_t device)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->nrun; i++)
		if (c->run[i].device == device && c->run[i].devices > n) n = c->run[i].devices;
	return n;
}

static void
check_curves(Hw *h)
{
	for (uint32_t i = 0; i < h->c->ncurve; i++) {
		const CollCurve *v = &h->c->curve[i];
		uint32_t most = most_in_node(h->c, v->device);
		uint64_t per = (v->ranks + v->nodes - 1) / v->nodes;

		if (most && (per - 1) * v->stride + 1 > most)
			diag_error(h->s.diag, h->curve_at[i],
				   "%" PRIu32 " ranks on %" PRIu32 " node%s, stride %" PRIu32
				   ", take %" PRIu64
				   " devices of a node; no node has more than "
				   "%" PRIu32 " of '%s'",
				   v->ranks, v->nodes, v->nodes == 1 ? "" : "s", v->stride,
				   (per - 1) * v->stride + 1, most,
				   name_str(h->s.names, h->c->device[v->device].name));
	}
}

Cluster *
cluster_parse(Arena *a, Names *n, Diag *d, Name file, const char *text, size_t len)
{
	Hw *h = NEW(a, Hw);
	int before = diag_errors(d);

	h->a = a;
	h->c = NEW(a, Cluster);
	h->c->file = file;
	scan_init(&h->s, n, d, file, text, len);
	if (!scan_line(&h->s))
		scan_fail(&h->s, "a cluster begins with the line `hw 1`");
	else if (scan_key(&h->s, "hw") &&
		 scan_int(&h->s, "the version of the format", 1, 1, &(int64_t){0}) &&
		 scan_done(&h->s))
		while (!diag_stop(d) && scan_line(&h->s))
			if (line(h)) scan_done(&h->s);
	if (diag_errors(d) == before) {
		check_devices(h);
		check_nodes(h);
		check_curves(h);
	}
	return diag_errors(d) == before ? h->c : NULL;
}

/* ---- printing ---- */

static void
print_device(const Cluster *c, const Names *n, const Device *d, Buf *out)
{
	(void)c;
	buf_puts(out, "\ndevice ");
	text_name(out, name_str(n, d->name));
	buf_printf(out, " %s", target_str[d->target]);
	if (d->target == TG_host) buf_printf(out, " cores %" PRIu32, d->cores);
	if (d->arch) {
		buf_putc(out, ' ');
		text_name(out, name_str(n, d->arch));
	}
	buf_puts(out, "\n  memory ");
	text_bytes(out, d->memory);
	if (d->reserved) {
		buf_puts(out, " reserved ");
		text_bytes(out, d->reserved);
	}
	if (d->comm_bytes) {
		buf_puts(out, " communicator ");
		text_bytes(out, d->comm_bytes);
	}
	buf_puts(out, "\n  flops");
	for (int k = 0; k < DT_COUNT; k++)
		if (d->flops[k]) {
			buf_printf(out, " %s ", dtype_str((DType)k));
			text_rate(out, d->flops[k], "FLOP");
		}
	buf_puts(out, "\n  bytes ");
	text_rate(out, d->bytes, "B");
	buf_puts(out, "\n  loops ");
	text_rate(out, d->loops, "");
	if (d->launch) {
		buf_puts(out, "\n  launch ");
		text_time(out, d->launch);
	}
	for (int k = 0; k < EF_COUNT; k++)
		if (d->eff[k] != hw_eff[k].value) {
			buf_printf(out, "\n  efficiency %s ", eff_str[k]);
			buf_double(out, d->eff[k]);
		}
	if (d->slow_compute) {
		buf_puts(out, "\n  overlap compute ");
		buf_double(out, d->slow_compute);
		buf_puts(out, " communication ");
		buf_double(out, d->slow_comm);
	}
	buf_putc(out, '\n');
}

static void
print_link(const char *key, const Link *l, Buf *out)
{
	if (!l->bytes) return;
	buf_printf(out, " %s ", key);
	text_time(out, l->ns);
	buf_putc(out, ' ');
	text_rate(out, l->bytes, "B");
}

static void
print_run(const Cluster *c, const Names *n, const NodeRun *r, Buf *out)
{
	buf_printf(out, "node %" PRIu32 " x %" PRIu32 " ", r->nodes, r->devices);
	text_name(out, name_str(n, c->device[r->device].name));
	print_link("near", &r->near, out);
	print_link("far", &r->far, out);
	if (r->far.bytes && r->rails != 1) buf_printf(out, " rails %" PRIu32, r->rails);
	buf_putc(out, '\n');
}

static void
print_curve(const Cluster *c, const Names *n, const CollCurve *v, Buf *out)
{
	buf_printf(out, "curve %s ", curve_str[v->kind]);
	text_name(out, name_str(n, c->device[v->device].name));
	buf_printf(out, " ranks %" PRIu32 " nodes %" PRIu32 " stride %" PRIu32 " :", v->ranks,
		   v->nodes, v->stride);
	for (uint32_t i = 0; i < v->n; i++) {
		buf_putc(out, ' ');
		text_bytes(out, v->bytes[i]);
		buf_putc(out, ':');
		text_time(out, (double)v->ns[i]);
	}
	buf_putc(out, '\n');
}

void
cluster_print(const Cluster *c, const Names *n, Buf *out)
{
	buf_puts(out, "hw 1\n");
	if (c->name) {
		buf_puts(out, "cluster ");
		text_name(out, name_str(n, c->name));
		buf_putc(out, '\n');
	}
	for (uint32_t i = 0; i < c->nprovenance; i++) {
		buf_puts(out, "provenance ");
		text_quoted(out, name_str(n, c->provenance[i]));
		buf_putc(out, '\n');
	}
	for (uint32_t i = 0; i < c->ndevice; i++)
		print_device(c, n, &c->device[i], out);
	buf_putc(out, '\n');
	for (uint32_t i = 0; i < c->nrun; i++)
		print_run(c, n, &c->run[i], out);
	for (uint32_t i = 0; i < c->ncurve; i++)
		print_curve(c, n, &c->curve[i], out);
}
