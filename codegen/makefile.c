/*
 * makefile.c - the folder of -o: program, Makefile, manifest.
 *
 * A folder is ours if src/manifest says so. Emission writes its files, removes those an older manifest lists and the new
 * one does not, and touches nothing else; a folder that is not empty and not ours is refused. A file whose bytes would
 * not change is left alone, so that `make` has nothing to do. The only path in the output is the Makefile's RUNTIME.
 */
#include "codegen/cg.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef GV_RUNTIME_DIR
#define GV_RUNTIME_DIR "runtime"
#endif

#define MANIFEST_HEAD "galvatronc manifest 1\n"

enum { MANIFEST_BYTES = 1 << 20 };

static const char *
join(Arena *a, const char *dir, const char *file)
{
	return cg_text(a, "%s/%s", dir, file);
}

static bool
fail(Ctx *c, const char *what, const char *path)
{
	diag_error(c->diag, (Loc){0}, "%s '%s': %s", what, path, strerror(errno));
	return false;
}

/* ---- the manifest ---- */

/* A line of a manifest: a path below the folder, of harmless characters. */
static bool
is_safe_path(const char *s, size_t n)
{
	if (n == 0 || n > 200 || s[0] == '/') return false;
	for (size_t k = 0; k < n; k++) {
		char ch = s[k];

		if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||
		      (ch >= '0' && ch <= '9') || strchr("._/-", ch)))
			return false;
		if (ch == '.' && k + 1 < n && s[k + 1] == '.') return false;
	}
	return true;
}

/* Whether a folder has entries of its own. */
static bool
is_empty(const char *dir)
{
	DIR *d = opendir(dir);
	bool empty = true;

	if (!d) return true;
	for (struct dirent *e; (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) empty = false;
	closedir(d);
	return empty;
}

/* The text of the manifest that lies there; NULL: none that we made. */
static char *
old_manifest(Ctx *c, const char *dir)
{
	size_t n;
	char *s = file_read(c->perm, join(c->perm, dir, "src/manifest"), MANIFEST_BYTES, &n);

	if (!s || strncmp(s, MANIFEST_HEAD, strlen(MANIFEST_HEAD)) != 0) return NULL;
	return s + strlen(MANIFEST_HEAD);
}

static bool
is_listed(const char *file, size_t n, const char *const *files, size_t nfiles)
{
	for (size_t k = 0; k < nfiles; k++)
		if (strlen(files[k]) == n && strncmp(files[k], file, n) == 0) return true;
	return false;
}

/* Removes what an older emission made and this one does not. */
static bool
remove_old(Ctx *c, const char *dir, const char *old, const char *const *files, size_t nfiles)
{
	while (old && *old) {
		size_t n = strcspn(old, "\n");

		if (is_safe_path(old, n) && !is_listed(old, n, files, nfiles)) {
			const char *path =
			    join(c->perm, dir, cg_text(c->perm, "%.*s", (int)n, old));

			if (unlink(path) != 0 && errno != ENOENT)
				return fail(c, "cannot remove", path);
		}
		old += n + (old[n] == '\n');
	}
	return true;
}

static bool
write_file(Ctx *c, const char *dir, const char *file, const char *text, size_t n)
{
	const char *path = join(c->perm, dir, file);
	size_t have;
	char *now = file_read(c->perm, path, n + 1, &have);

	if (now && have == n && memcmp(now, text, n) == 0) return true;
	return file_write(path, text, n) || fail(c, "cannot write", path);
}

/* ---- the Makefile ---- */

/* Characters that mean something to make or to a shell have no place in a path of ours. */
static bool
is_plain_path(const char *s)
{
	for (; *s; s++) {
		unsigned char ch = (unsigned char)*s;

		if (ch >= 0x80 || (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||
		    (ch >= '0' && ch <= '9'))
			continue;
		if (!strchr("._/+-,@", ch)) return false;
	}
	return true;
}

/* `to` as seen from the folder `from`, both absolute and without links. */
static const char *
relative(Arena *a, const char *from, const char *to)
{
	size_t same = 0, k = 0; /* [0, same): folders both have, without the slash after */
	Buf b;

	for (; from[k] && from[k] == to[k]; k++)
		if (from[k] == '/') same = k;
	if ((!from[k] || from[k] == '/') && (!to[k] || to[k] == '/')) same = k;
	if (same == 0) return arena_dup(a, to, strlen(to) + 1); /* nothing in common */
	buf_init(&b, a);
	for (const char *s = from + same; *s; s++)
		if (*s == '/') buf_puts(&b, "../");
	buf_puts(&b, to[same] ? to + same + 1 : ".");
	return b.s;
}

static bool
runtime_path(Ctx *c, const CgOptions *o, const char **out)
{
	char dir[PATH_MAX], runtime[PATH_MAX];
	const char *want = o->runtime_dir ? o->runtime_dir : GV_RUNTIME_DIR;

	if (!realpath(want, runtime)) return fail(c, "cannot find the runtime", want);
	if (!dir_make(o->dir)) return fail(c, "cannot make", o->dir);
	if (!realpath(o->dir, dir)) return fail(c, "cannot find", o->dir);
	*out = cg_text(c->perm, "%s", relative(c->perm, dir, runtime));
	if (is_plain_path(*out)) return true;
	diag_error(c->diag, (Loc){0},
		   "make cannot hold the path of the runtime, '%s'; move it to one without "
		   "spaces and special characters",
		   *out);
	return false;
}

/* What every Makefile has, between the comment on top and the rules of the stages. */
static const char settings[] =
    "# The runtime's sources.\n"
    "RUNTIME ?= %s\n"
    "ifeq ($(origin CC),default)\n"
    "CC := gcc\n"
    "endif\n"
    "OPT ?= -O3 -march=native\n"
    "# Vector loops, with the meaning of NaN and infinity kept. Scratch memory is used for one "
    "type after another.\n"
    "FLAGS := -std=gnu11 -fopenmp -fno-math-errno -fno-trapping-math -ffp-contract=fast "
    "-fno-strict-aliasing -Wall -Wextra%s\n"
    "comma := ,\n"
    "# The OpenMP build of OpenBLAS where the system has several: the pthread one fights with "
    "our threads.\n"
    "OPENBLAS := $(firstword $(wildcard /usr/lib/*/openblas-openmp))\n"
    "BLAS ?= $(if $(OPENBLAS),-L$(OPENBLAS) -Wl$(comma)-rpath$(comma)$(OPENBLAS)) -lopenblas\n"
    "INCLUDE := -I$(RUNTIME) $(addprefix -I,$(firstword $(wildcard "
    "/usr/include/*/openblas-openmp)))\n"
    "OBJ := $(patsubst $(RUNTIME)/%%.c,obj/%%.o,$(sort $(wildcard $(RUNTIME)/*.c)))\n"
    "HEADERS := $(wildcard $(RUNTIME)/*.h)\n";

static const char one_head[] =
    "#   make        builds stage_0\n"
    "#   make run    runs it; ARGS=\"--data FILE --steps N ...\" is passed on (./stage_0 "
    "--help lists all)\n"
    "#   make clean  removes what was built\n"
    "\n";

static const char one_rules[] =
    "# What the object files were made with: another command line makes them again.\n"
    "COMMAND := $(CC) $(OPT) $(FLAGS) $(CFLAGS) $(INCLUDE)\n"
    "\n"
    "stage_0: obj/stage_0.o $(OBJ)\n"
    "\t$(CC) $(OPT) -fopenmp $(LDFLAGS) -o $@ $^ $(BLAS) -lm\n"
    "\n"
    "obj/stage_0.o: src/stage_0.c $(HEADERS) obj/command\n"
    "\t$(COMMAND) -c -o $@ $<\n"
    "\n"
    "$(OBJ): obj/%.o: $(RUNTIME)/%.c $(HEADERS) obj/command\n"
    "\t$(COMMAND) -c -o $@ $<\n"
    "\n"
    "obj/command: FORCE\n"
    "\t@mkdir -p obj && { printf '%s\\n' '$(COMMAND)' | cmp -s - $@ || printf '%s\\n' "
    "'$(COMMAND)' > $@; }\n"
    "\n"
    "run: stage_0\n"
    "\t./stage_0 $(ARGS)\n"
    "\n"
    "clean:\n"
    "\trm -rf obj stage_0\n"
    "\n"
    ".PHONY: run clean FORCE\n";

static const char many_head[] =
    "#   make        builds a program for every stage\n"
    "#   make run    runs them; ARGS=\"--data FILE --steps N ...\" is passed on (./stage_0 "
    "--help lists all)\n"
    "#   make clean  removes what was built\n"
    "# By hand, in one line (Open MPI; as root add --allow-run-as-root):\n"
    "#   mpirun --oversubscribe --bind-to none -np %u ./stage_* --data FILE --steps N\n"
    "\n"
    "RANKS := %u\n"
    "STAGES :=";

static const char many_rules[] =
    "MPICC ?= mpicc\n"
    "MPIRUN ?= mpirun\n"
    "export OMPI_CC := $(CC)\n"
    "export MPICH_CC := $(CC)\n"
    "# What the object files were made with: another command line makes them again.\n"
    "COMMAND := $(MPICC) $(OPT) $(FLAGS) -DGVRT_MPI $(CFLAGS) $(INCLUDE)\n"
    "\n"
    "all: $(STAGES)\n"
    "\n"
    "$(STAGES): stage_%: obj/stage_%.o $(OBJ)\n"
    "\t$(MPICC) $(OPT) -fopenmp $(LDFLAGS) -o $@ $^ $(BLAS) -lm\n"
    "\n"
    "$(STAGES:%=obj/%.o): obj/%.o: src/%.c $(HEADERS) obj/command\n"
    "\t$(COMMAND) -c -o $@ $<\n"
    "\n"
    "$(OBJ): obj/%.o: $(RUNTIME)/%.c $(HEADERS) obj/command\n"
    "\t$(COMMAND) -c -o $@ $<\n"
    "\n"
    "obj/command: FORCE\n"
    "\t@command -v $(firstword $(MPICC)) >/dev/null || { echo '$(MPICC) is not there: install "
    "MPI with its headers, or name its compiler with MPICC=...' >&2; exit 1; }\n"
    "\t@mkdir -p obj && { printf '%s\\n' '$(CC) $(COMMAND)' | cmp -s - $@ || printf '%s\\n' "
    "'$(CC) $(COMMAND)' > $@; }\n"
    "\n"
    "# Ranks may outnumber cores, and the programs place their own threads. Open MPI up to 4 "
    "reads OMPI_, from 5 on PRTE_.\n"
    "run: export OMPI_MCA_rmaps_base_oversubscribe := 1\n"
    "run: export OMPI_MCA_hwloc_base_binding_policy := none\n"
    "run: export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe\n"
    "run: export PRTE_MCA_hwloc_default_binding_policy := none\n"
    "# Root is let in only if told so twice.\n"
    "ifeq ($(shell id -u),0)\n"
    "run: export OMPI_ALLOW_RUN_AS_ROOT := 1\n"
    "run: export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1\n"
    "run: export PRTE_ALLOW_RUN_AS_ROOT := 1\n"
    "run: export PRTE_ALLOW_RUN_AS_ROOT_CONFIRM := 1\n"
    "endif\n"
    "run: $(STAGES)\n"
    "\t[ ! -t 1 ] || export GVRT_TTY=$${GVRT_TTY:-1}; $(MPIRUN) -np $(RANKS) $(addprefix "
    "./,$(STAGES)) $(ARGS)\n"
    "\n"
    "clean:\n"
    "\trm -rf obj $(STAGES)\n"
    "\n"
    ".PHONY: all run clean FORCE\n";

static void
put_makefile(Ctx *c, const Module *m, const char *runtime, Buf *out)
{
	bool f64 = m->train.precision == DT_f64 || c->precision == DT_f64,
	     many = m->plan.ranks > 1;

	buf_puts(out, "# Made by galvatronc: do not edit. Model ");
	put_comment(out, name_str(m->names, m->model));
	buf_puts(out, ".\n");
	if (many) {
		buf_printf(out, many_head, m->plan.ranks, m->plan.ranks);
		for (uint32_t k = 0; k < m->plan.nstages; k++)
			buf_printf(out, " stage_%u", k);
		buf_puts(out, "\n");
	} else {
		buf_puts(out, one_head);
	}
	buf_printf(out, settings, runtime, f64 ? " -DGVRT_F64" : "");
	buf_puts(out, many ? many_rules : one_rules);
}

/* ---- the folder ---- */

typedef struct File {
	const char *path;
	const Buf *text;
} File;

bool
cg_write(Ctx *c, const Module *m, const CgOptions *o, const Buf *programs, const Buf *traffic)
{
	uint32_t n = 0, max = m->plan.nstages + 3;
	File *files = NEW_N(c->perm, File, max);
	const char **paths = NEW_N(c->perm, const char *, max), *runtime,
		   *old = old_manifest(c, o->dir);
	Buf make, manifest;

	if (!old && !is_empty(o->dir)) {
		diag_error(c->diag, (Loc){0},
			   "'%s' is not empty and was not made by galvatronc; give another "
			   "folder with -o",
			   o->dir);
		return false;
	}
	if (!runtime_path(c, o, &runtime)) return false;
	if (!dir_make(join(c->perm, o->dir, "src")))
		return fail(c, "cannot make", join(c->perm, o->dir, "src"));
	buf_init(&make, c->perm);
	buf_init(&manifest, c->perm);
	put_makefile(c, m, runtime, &make);
	files[n++] = (File){"Makefile", &make};
	for (uint32_t k = 0; k < m->plan.nstages; k++)
		files[n++] = (File){cg_text(c->perm, "src/stage_%u.c", k), &programs[k]};
	if (traffic->n) files[n++] = (File){"src/traffic", traffic};
	files[n++] = (File){"src/manifest", &manifest};
	buf_puts(&manifest, MANIFEST_HEAD);
	for (uint32_t k = 0; k < n; k++)
		buf_printf(&manifest, "%s\n", paths[k] = files[k].path);
	/* the manifest first: what is written next is then known to be ours */
	for (uint32_t k = n; k-- > 0;) {
		if (!write_file(c, o->dir, files[k].path, files[k].text->s, files[k].text->n))
			return false;
		if (k == n - 1 && !remove_old(c, o->dir, old, paths, n)) return false;
	}
	return true;
}
