/*
 * cluster.h - the machine a plan is for (.hw) and what was measured on it (.hw, .prof).
 *
 * A cluster is a list of devices, counted through node by node in the order of the file: rank r of a plan runs on device r
 * (of the nodes in the plan's order). A device is what one rank has to itself: a GPU; on the host its share of the cores.
 * A curve is a time as a function of bytes; a profile, times of kernels by what they compute and on which extents.
 * cluster.c and profile.c read and print both; README.md has the formats. Nothing here knows how a price is made: that is
 * passes/price.h.
 */
#ifndef GV_CLUSTER_H
#define GV_CLUSTER_H

#include "ir/ir.h"

/* A field and what it means stay on one line. */
/* clang-format off */

enum { MAX_DEVICES = 1 << 20, MAX_NODES = 1 << 17, MAX_KINDS = 32 };

typedef enum Target { TG_host, TG_cuda, TG_COUNT } Target;

/* ORDER Efficiency: fitted or documented constants of a device's roofline, each a factor or as said. hw_eff[] has names, meanings
 * and what holds where a file is silent. */
typedef enum EffKind {
#define EFF(name, value, part, doc) EF_##name,
#include "ir/eff.def"
	EF_COUNT
} EffKind;
extern const struct EffInfo { const char *name; double value; int part; const char *doc; } hw_eff[EF_COUNT];

typedef struct Device { /* a kind */
	Name name;
	Target target;
	Name arch;              /* "sm_90"; none on the host */
	uint32_t cores;         /* host: of a device */
	int64_t memory;         /* bytes a rank may use in all */
	int64_t reserved;       /* of them: context, libraries, what communicators take whatever they are */
	int64_t comm_bytes;     /* what a communicator takes beside that */
	double flops[DT_COUNT]; /* peak of matrix products, FLOP/s; 0: this dtype computes as DT_f32 */
	double bytes;           /* of its memory, bytes/s */
	double loops;           /* elementwise operations/s */
	double launch;          /* ns the host takes to issue a kernel. It runs ahead of the device: a body takes the longer of all its launches and all its kernels */
	double eff[EF_COUNT];
	/* While a computation and a communication run together each takes so much longer (>= 1). 0: they take turns. */
	double slow_compute, slow_comm;
} Device;

typedef struct Link { /* bytes/s a device (near) or a node (far) sends while it receives as much; ns before the first byte */
	double ns, bytes;
} Link;

typedef struct NodeRun { /* equal nodes in a row */
	uint32_t nodes, device, devices; /* how many; kind and number of devices of each */
	Link near, far;                  /* between its devices; of the node's network, all its devices together */
	uint32_t rails;                  /* network cards that make up `far`: one device, alone, reaches far.bytes / rails */
} NodeRun;

/* A measured collective or message. PR_exchange: a message between two devices. */
typedef struct CollCurve {
	PrimKind kind;
	uint32_t device;       /* kind */
	uint32_t ranks, nodes; /* of the group; on how many nodes. 1: inside one */
	uint32_t stride;       /* devices from one member on a node to the next; 1: consecutive */
	uint32_t n;
	int64_t *bytes, *ns;   /* [n] rising; bytes: all_reduce, reduce_scatter of the operand, all_gather of the result, all_to_all of what a rank gives, exchange of the message */
} CollCurve;

typedef struct Cluster {
	Name name, file;
	Device *device;
	uint32_t ndevice;
	NodeRun *run;
	uint32_t nrun;
	CollCurve *curve;
	uint32_t ncurve;
	uint32_t nodes, devices; /* of all runs */
	Name *provenance;        /* free text: what, when, with which versions, how far apart */
	uint32_t nprovenance;
	bool guessed;            /* a documented roofline of the machine at hand, no file */
} Cluster;

/* Reads a .hw text; NULL after diagnostics at file:line:col. Strings are copied. */
Cluster *cluster_parse(Arena *a, Names *n, Diag *d, Name file, const char *text, size_t len);
void cluster_print(const Cluster *c, const Names *n, Buf *out);
/* Of device i, in the file's order: its node, its number in that, its run. */
uint32_t cluster_node(const Cluster *c, uint32_t device, uint32_t *in_node, uint32_t *run);
const Device *cluster_device(const Cluster *c, uint32_t device);

/* Can the plan be for it: enough devices on the nodes it names? False: why. */
bool cluster_has(const Cluster *c, const Plan *p, Buf *why);
/* The cluster as a plan counts it: its nodes in the order given. */
Cluster *cluster_order(const Cluster *c, Arena *a, const uint32_t *nodes, uint32_t n);

/* ---- measured kernels ---- */

/* A kernel of a body (ops with one kernel number, or one op alone) by what it computes: `family` says everything but the
 * local extents of its axes, which are numbered in order of first appearance: "dot f32 0 1, 1 2 -> 0 2". */
typedef struct KernelKey {
	Name family;
	uint8_t n;
	int64_t extent[MAX_AXES * 2];
} KernelKey;

enum { MAX_KERNEL_AXES = MAX_AXES * 2 };

/* Which axes of the kernel the extents of a key are products of. */
typedef struct KeyAxes {
	uint8_t n;
	Axis axis[MAX_KERNEL_AXES];
	uint8_t number[MAX_KERNEL_AXES];
	bool first[MAX_KERNEL_AXES]; /* of those with its number, the outermost */
	bool mixed; /* an axis has several extents, or there are too many: extents do not say all */
} KeyAxes;

typedef struct KernelTime {
	KernelKey key;
	int64_t ns;    /* median */
	double spread; /* interquartile range / median */
	uint32_t runs;
} KernelTime;

/* Forward of a whole layer of the model, by samples; of tools that know no kernels. */
typedef struct LayerTime {
	Name layer; /* of the GDL file */
	uint32_t n;
	int64_t *samples, *ns; /* [n] rising; ns of all of them */
} LayerTime;

typedef struct Profile {
	Name file;
	Name device; /* the kind it was measured on */
	uint32_t ranks, threads; /* side by side on a node while measuring; threads of each */
	KernelTime *time; /* sorted by family, extents */
	uint32_t n, cap;
	LayerTime *layer; /* by the order of the file */
	uint32_t nlayer, clayer;
	Name *provenance;
	uint32_t nprovenance;
} Profile;

Profile *profile_parse(Arena *a, Names *n, Diag *d, Name file, const char *text, size_t len);
void profile_print(const Profile *p, const Names *n, Buf *out);
/* The key of the kernel that op `first` begins; *end: one past its last op. False: it runs nothing (views, constants folded away). */
bool profile_key(const Module *m, const Body *b, uint32_t first, uint32_t *end, KernelKey *out);
bool profile_key_axes(const Module *m, const Body *b, uint32_t first, uint32_t *end, KernelKey *out, KeyAxes *axes);
/* All of one family, extents rising; NULL. */
const KernelTime *profile_family(const Profile *p, Name family, uint32_t *n);
/* Puts a time where it belongs, over the one that was there. */
void profile_add(Profile *p, Arena *a, const KernelTime *t);
/* Exact; NULL. */
const KernelTime *profile_find(const Profile *p, const KernelKey *k);

/* ns of a forward of so many samples: a line from point to point; below the first the first line goes on, but not below the
 * share of it; above the last, the share of that. */
double layer_time(const LayerTime *l, double samples);
/* NULL */
const LayerTime *profile_layer(const Profile *p, const char *layer, size_t len, const Names *n);

#endif
