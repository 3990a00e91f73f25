/*
 * tokens.c - fuzzes the readers of token files: the first byte chooses the format, the rest is the file.
 */
#include <stdlib.h>

#include "runtime/log.c"
#include "runtime/tokens.c"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	TokenFile f;
	Err e = {""};
	if (n < 1) return 0;
	DataFormat format = (DataFormat)(bytes[0] % DF_TENSORS);
	const char *path = bytes[0] & 128 ? "fuzz.bin" : "fuzz.txt";
	if (!tokens_parse(&f, format, bytes + 1, n - 1, path, &e)) {
		if (!e.text[0]) abort();
		return 0;
	}
	uint32_t sum = 0;
	for (int64_t i = 0; i < f.tokens; i++)
		sum += token_at(&f, i);
	volatile uint32_t keep = sum;
	(void)keep;
	return 0;
}
