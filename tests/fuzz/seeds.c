/* SPDX-License-Identifier: Apache-2.0 */
/* seeds DIR: good input of a target, a file each. */
#include <stdio.h>

#include "fuzz.h"

#define INPUT_MAX (64u << 10)

int main(int argc, char **argv)
{
	static uint8_t buf[INPUT_MAX];

	if (argc != 2)
		return 2;
	for (unsigned int n = 0;; n++) {
		size_t size = fuzz_good_input(n, buf, sizeof(buf));
		char path[4096];
		FILE *f;

		if (size == 0)
			return 0;
		snprintf(path, sizeof(path), "%s/good-%u", argv[1], n);
		f = fopen(path, "w");
		if (!f || fwrite(buf, size, 1, f) != 1 || fclose(f) != 0)
			return 1;
	}
}
