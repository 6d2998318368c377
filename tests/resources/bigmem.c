/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bigmem STATUS MIB [huge | small]: private memory full of words that don't
 * compress, with huge pages, with none, or as the system has it; also for the
 * bench. Checked word by word.
 */
#include "res.h"

#define MIB (1ul << 20)

int main(int argc, char **argv)
{
	struct res r = res_start(argc, argv);
	size_t bytes = (argc > 2 ? strtoul(argv[2], NULL, 10) : 64) * MIB;
	const char *pages = argc > 3 ? argv[3] : "";
	/* aligned, so that huge pages fit */
	char *at = mmap((void *)0x400000000000ul, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	MUST(&r, at != MAP_FAILED);
	MUST(&r, strcmp(pages, "huge") || madvise(at, bytes, MADV_HUGEPAGE) == 0);
	MUST(&r, strcmp(pages, "small") || madvise(at, bytes, MADV_NOHUGEPAGE) == 0);
	for (size_t m = 0; m < bytes / MIB; m++)
		res_fill(at + m * MIB, MIB, m + 1);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		for (size_t m = 0; m < bytes / MIB; m++)
			WANT_EQ(&r, res_differs(at + m * MIB, MIB, m + 1), -1, "MiB %zu, first wrong byte", m);
		res_done(&r);
	}
}
