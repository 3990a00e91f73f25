/*
 * import.c - galvatronc import: reads Hetu-Galvatron's files and the few facts that they do not have.
 *
 *   galvatronc import allreduce_bandwidth_*.json p2p_*.json ... --device=a100.hw -o cluster.hw
 *   galvatronc import ... computation_*.json memory_*.json --layers=32 --hidden=4096 --batch=64 --memory=36GB
 *
 *   galvatronc import computation_*.json --map=block=layertype_0,output=layertype_other -o layers.prof
 *
 * The machine of a plan may also be a .hw: --cluster.
 */
#include "frontend/import.h"
#include "frontend/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static char *
read_text(Ctx *c, const char *path, size_t *n)
{
	char *text = file_read(c->perm, path, MAX_JSON_BYTES, n);
	if (!text) diag_error(c->diag, (Loc){0}, "cannot read '%s': %s", path, strerror(errno));
	return text;
}

static int
bad(const char *option, const char *value, const char *known)
{
	fprintf(stderr, "galvatronc: %s=%s: expected %s\n", option, value, known);
	return 2;
}

/* ---- the device ---- */

/* Lines of a .hw about one device, with ';' for the ends of lines, as a .hw of that device alone. */
static const char *
device_text(Ctx *c, const char *s, size_t *n)
{
	Buf b;
	buf_init(&b, c->perm);
	buf_puts(&b, "hw 1\n");
	for (; *s; s++)
		buf_putc(&b, *s == ';' ? '\n' : *s);
	*n = b.n;
	return b.s;
}

/* The kind of device that --device says; NULL after diagnostics. */
static const Device *
read_device(Ctx *c, const char *option)
{
	bool file = ends_with(option, ".hw");
	size_t n;
	const char *text = file ? read_text(c, option, &n) : device_text(c, option, &n);
	Name name = name_of(c->names, file ? base_name(option) : "--device");
	if (!text) return NULL;
	if (!file) { /* a node of it makes a whole */
		Buf b;
		const char *at = strstr(text, "device ");
		int len = at ? (int)strcspn(at + 7, " \n") : 0;
		buf_init(&b, c->perm);
		buf_printf(&b, "%s\nnode 1 x 1 %.*s\n", text, len, at ? at + 7 : "");
		text = b.s;
		n = b.n;
	}
	diag_source(c->diag, name, text, n);
	const Cluster *x = cluster_parse(c->perm, c->names, c->diag, name, text, n);
	if (!x) return NULL;
	if (x->ndevice == 1) return x->device;
	diag_error(c->diag, (Loc){.file = name},
		   "%u kinds of devices; the machine that is imported has one", x->ndevice);
	return NULL;
}

/* What there is to know if nobody says more: for plans, which ask only for the memory. */
static Device
unknown_device(const Ctx *c)
{
	Device d = {
	    .name = name_of(c->names, "device"), .target = TG_cuda, .memory = c->memory_bytes};
	for (int k = 0; k < EF_COUNT; k++)
		d.eff[k] = hw_eff[k].value;
	return d;
}

/* ---- the machine ---- */

static const Cluster *
read_cluster(Ctx *c, const char *path)
{
	size_t n;
	const char *text = read_text(c, path, &n);
	Name name = name_of(c->names, base_name(path));
	if (!text) return NULL;
	diag_source(c->diag, name, text, n);
	return cluster_parse(c->perm, c->names, c->diag, name, text, n);
}

static bool
has_machine(const GalFiles *f)
{
	return f->nall_reduce || f->np2p || f->ntable || f->overlap > 0;
}

static bool
make_cluster(Ctx *c, const Options *o, Imported *out)
{
	Device d = unknown_device(c);
	if (o->cluster) {
		if (has_machine(out->files)) {
			diag_error(c->diag, (Loc){0},
				   "--cluster says what the machine is, and so do the files");
			return false;
		}
		return (out->cluster = read_cluster(c, o->cluster));
	}
	if (o->device) {
		const Device *said = read_device(c, o->device);
		if (!said) return false;
		d = *said;
	} else if (!out->plans) {
		diag_error(
		    c->diag, (Loc){0},
		    "what the devices are is not in these files (memory, FLOP/s, bytes/s): "
		    "--device=FILE.hw takes them from there, or --device='device a100 cuda "
		    "sm_80; memory 80GB; flops f32 19.5TFLOP/s bf16 312TFLOP/s; bytes 2TB/s; "
		    "loops 10T/s'");
		return false;
	}
	return (out->cluster = gal_cluster(out->files, &d));
}

/* ---- the model ---- */

static bool
whole_u32(const char *s, uint32_t *out)
{
	int64_t n;
	if (!parse_whole(s, 1, 1 << 24, &n)) return false;
	*out = (uint32_t)n;
	return true;
}

/* "24,24". */
static int
read_layers(Ctx *c, const char *s, Imported *out)
{
	uint32_t cap = 0;
	int64_t sum = 0;
	for (const char *at = s;; at++) {
		char *end;
		long n = strtol(at, &end, 10);
		if (end == at || n < 1 || (sum += n) > 1 << 16 || (*end && *end != ','))
			return bad(
			    "--layers", s,
			    "how many layers, or of each type, as in 24,24; at most 65536");
		PUSH(c->perm, out->layers, out->ntypes, cap, (uint32_t)n);
		at = end;
		if (!*end) return -1;
	}
}

static int
read_model(Ctx *c, const Options *o, Imported *out)
{
	out->plans = o->layers || o->batch || o->hidden || o->seq;
	if (!out->plans && (out->files->ntime || out->files->nmemory || out->files->nother)) {
		fputs("galvatronc: a model's files make a plan: --layers=N --batch=N "
		      "[--hidden=N] say for what\n",
		      stderr);
		return 2;
	}
	if (!out->plans) return -1;
	if (!o->layers || !o->batch) {
		fputs("galvatronc: --layers=N and --batch=N say what a plan is for\n", stderr);
		return 2;
	}
	if (!parse_whole(o->batch, 1, 1 << 24, &out->batch))
		return bad("--batch", o->batch, "a whole number from 1 to 16777216");
	if (o->hidden && !whole_u32(o->hidden, &out->hidden))
		return bad("--hidden", o->hidden, "a whole number from 1 to 16777216");
	if (o->seq && !whole_u32(o->seq, &out->seq))
		return bad("--seq", o->seq, "a whole number from 1 to 16777216");
	return read_layers(c, o->layers, out);
}

/* ---- a profile ---- */

/* "block=layertype_0,output=layertype_other" */
static int
read_map(Ctx *c, const Options *o, Imported *out)
{
	Profile *p = NEW(c->perm, Profile);
	uint32_t seq, cap = 0, type;
	if (o->seq && !whole_u32(o->seq, &out->seq))
		return bad("--seq", o->seq, "a whole number from 1 to 16777216");
	if (!gal_seq(out->files, out->seq, &seq)) return 1;
	p->ranks = p->threads = 1;
	for (const char *at = o->map;; at++) {
		size_t n = strcspn(at, "=,"), k = at[n] == '=' ? strcspn(at + n + 1, ",") : 0;
		LayerTime l;
		if (!n || !k || !gal_type_parse(at + n + 1, k, &type))
			return bad(
			    "--map", o->map,
			    "LAYER=layertype_N or LAYER=layertype_other, with commas between");
		if (!gal_layer_time(out->files, type, seq, &l)) {
			diag_error(c->diag, (Loc){0},
				   "--map: %.*s was not timed at sequence %u", (int)k,
				   at + n + 1, seq);
			return 1;
		}
		l.layer = name_of_n(c->names, at, n);
		PUSH(c->perm, p->layer, p->nlayer, p->clayer, l);
		at += n + 1 + k;
		if (!*at) break;
	}
	for (uint32_t i = 0; i < out->files->nfile; i++)
		PUSH(c->perm, p->provenance, p->nprovenance, cap,
		     name_fmt(c->names, "imported: %s (Hetu-Galvatron), sequence %u",
			      name_str(c->names, out->files->file[i]), seq));
	out->profile = p;
	return -1;
}

int
import_read(Ctx *c, const Options *o, Imported *out)
{
	*out = (Imported){.files = gal_files(c->perm, c->names, c->diag)};
	for (int i = 0; i < o->nfiles; i++) {
		size_t n;
		const char *text = read_text(c, o->files[i], &n);
		if (!text || !gal_files_add(out->files,
					    name_of(c->names, base_name(o->files[i])), text, n))
			return 1;
	}
	if (o->map) return read_map(c, o, out);
	int status = read_model(c, o, out);
	if (status >= 0) return status;
	return make_cluster(c, o, out) ? -1 : 1;
}

int
import_write(const Options *o, const Buf *text)
{
	if (!o->out) {
		fwrite(text->s, 1, text->n, stdout);
		return 0;
	}
	if (file_write(o->out, text->s, text->n)) return 0;
	fprintf(stderr, "galvatronc: cannot write '%s': %s\n", o->out, strerror(errno));
	return 1;
}
