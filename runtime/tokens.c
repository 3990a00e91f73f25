/*
 * tokens.c - files of tokens: bytes of text, llm.c's shards (a header of 256 int32, then uint16, or uint32 for LLaMA-3),
 * and nanoGPT's plain uint16. Read in place from the mapped file; a file that is shorter than it says is refused.
 * Source: karpathy/llm.c llmc/dataloader.h, dev/data/data_common.py; karpathy/nanoGPT data/<set>/prepare.py.
 */
#include "gvrt_int.h"

enum { LLMC_HEADER = 1024, LLMC_GPT2 = 20240520, LLMC_LLAMA3 = 20240801 };

static int32_t
word(const unsigned char *bytes, int i)
{
	int32_t x;
	memcpy(&x, bytes + 4 * i, sizeof x);
	return x;
}

static bool
has_llmc_magic(const unsigned char *bytes, size_t n)
{
	return n >= 12 && (word(bytes, 0) == LLMC_GPT2 || word(bytes, 0) == LLMC_LLAMA3);
}

static bool
parse_llmc(TokenFile *f, const unsigned char *bytes, size_t n, Err *e)
{
	if (n < LLMC_HEADER)
		return rt_fail(
		    e, "%s: cut off: %zu bytes, and the header of a token shard takes %d",
		    f->path, n, LLMC_HEADER);
	int32_t magic = word(bytes, 0), version = word(bytes, 1), count = word(bytes, 2);
	if (!has_llmc_magic(bytes, n))
		return rt_fail(
		    e, "%s: not a token shard of llm.c: it begins with %d, not with %d or %d",
		    f->path, magic, LLMC_GPT2, LLMC_LLAMA3);
	int expect = magic == LLMC_GPT2 ? 1 : 7;
	if (version != expect)
		return rt_fail(e, "%s: a token shard of version %d, and %d is known", f->path,
			       version, expect);
	f->width = magic == LLMC_GPT2 ? 2 : 4;
	f->at = bytes + LLMC_HEADER;
	f->tokens = count;
	size_t rest = n - LLMC_HEADER;
	if (count < 0 || (uint64_t)count * (uint64_t)f->width != rest)
		return rt_fail(
		    e, "%s: its header says %d tokens of %d bytes, and %zu bytes follow",
		    f->path, count, f->width, rest);
	return true;
}

static bool
ends_with(const char *path, const char *ending)
{
	size_t n = strlen(path), k = strlen(ending);
	return n >= k && !strcmp(path + n - k, ending);
}

bool
tokens_parse(TokenFile *f, DataFormat format, const unsigned char *bytes, size_t n,
	     const char *path, Err *e)
{
	*f = (TokenFile){.path = path, .at = bytes, .width = 1, .tokens = (int64_t)n};
	if (n == 0) return rt_fail(e, "%s: the file is empty", path);
	if (format == DF_AUTO)
		format = has_llmc_magic(bytes, n)  ? DF_LLMC
			 : ends_with(path, ".bin") ? DF_U16
						   : DF_BYTES;
	if (format == DF_LLMC) return parse_llmc(f, bytes, n, e);
	if (format == DF_U16 || format == DF_U32) {
		f->width = format == DF_U16 ? 2 : 4;
		f->tokens = (int64_t)(n / (size_t)f->width);
		if (n % (size_t)f->width)
			return rt_fail(
			    e, "%s: %zu bytes are not a whole number of tokens of %d bytes",
			    path, n, f->width);
	}
	return true;
}

uint32_t
token_at(const TokenFile *f, int64_t i)
{
	uint16_t h;
	uint32_t x;
	switch (f->width) {
	case 1: return f->at[i];
	case 2: memcpy(&h, f->at + 2 * i, sizeof h); return h;
	default: memcpy(&x, f->at + 4 * i, sizeof x); return x;
	}
}
