/*
 * hw.c - fuzzes the reader of clusters, and the price model on what it accepts.
 *
 * Any text may be refused, with a diagnostic. What is accepted prints as text that reads back and prints the same; its nodes
 * can be taken in another order; and groups, collectives and messages on it have prices that are neither negative nor lost.
 */
#include <stdlib.h>
#include <string.h>

#include "passes/price.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

typedef struct World {
	Arena *arena;
	Names *names;
	Diag *diag;
} World;

static void
print_and_read(World *w, const Cluster *c)
{
	Buf first, second;
	buf_init(&first, w->arena);
	buf_init(&second, w->arena);
	cluster_print(c, w->names, &first);
	Cluster *again = cluster_parse(w->arena, w->names, w->diag,
				       name_of(w->names, "again.hw"), first.s, first.n);
	if (!again) abort();
	cluster_print(again, w->names, &second);
	if (first.n != second.n || memcmp(first.s, second.s, first.n) != 0) abort();
	if (again->devices != c->devices || again->nodes != c->nodes) abort();
}

static void
reorder(World *w, const Cluster *c)
{
	uint32_t nodes[8], n = c->nodes < 8 ? c->nodes : 8, devices = 0;
	for (uint32_t i = 0; i < n; i++)
		nodes[i] = c->nodes - 1 - i;
	const Cluster *x = cluster_order(c, w->arena, nodes, n);
	for (uint32_t i = 0; i < x->nrun; i++)
		devices += x->run[i].nodes * x->run[i].devices;
	if (x->nodes != n || devices != x->devices) abort();
	if (cluster_node(x, x->devices - 1, NULL, NULL) != n - 1) abort();
}

static void
check_price(int64_t ns)
{
	if (ns < 0) abort();
}

static void
price(World *w, const Cluster *c)
{
	static const uint32_t degrees[] = {1, 2, 3, 4, 7, 8, 16};
	Price *p = price_new(w->arena, c, NULL, c->devices, 0);
	for (size_t i = 0; i < COUNTOF(degrees); i++)
		for (size_t j = 0; j < COUNTOF(degrees); j++) {
			Mesh mesh = {.n = 3};
			mesh.ax[1].degree = degrees[i];
			mesh.ax[2].degree = degrees[j];
			if (degrees[i] * degrees[j] > c->devices) continue;
			for (unsigned over = 2; over <= 6; over += 2) {
				Shape s = price_shape(p, &mesh, over,
						      c->devices - degrees[i] * degrees[j]);
				if (!s.ranks || !s.nodes || s.nodes > s.ranks || !s.stride ||
				    !s.beside)
					abort();
				for (int k = 0; k < PR_exchange; k++)
					for (int64_t b = 1; b <= (int64_t)1 << 40; b <<= 20)
						check_price(
						    price_collective(p, (PrimKind)k, b, &s));
			}
		}
	check_price(price_message(p, 1 << 20, 0, c->devices - 1, 3));
	check_price(price_message(p, 1 << 20, c->devices - 1, 0, 0));
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	World w = {.arena = arena_new()};
	w.names = names_new(w.arena);
	w.diag = diag_new(w.arena, w.names, NULL);
	Cluster *c = cluster_parse(w.arena, w.names, w.diag, name_of(w.names, "fuzz.hw"),
				   (const char *)bytes, n);
	if (!c && !diag_errors(w.diag)) abort();
	if (c) {
		print_and_read(&w, c);
		reorder(&w, c);
		price(&w, c);
	}
	arena_free(w.arena);
	return 0;
}
