/* SPDX-License-Identifier: Apache-2.0 */
/* vdso OUT changed|gone|moved: does that to its vdso, says "ready", and sleeps by calls that need none. */
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LEN 8192

int main(int argc, char **argv)
{
	char *vdso = (char *)getauxval(AT_SYSINFO_EHDR);
	int fd, bad = 1;

	if (argc < 3)
		return 2;
	if (strcmp(argv[2], "changed") == 0) {
		bad = mprotect(vdso, LEN, PROT_READ | PROT_WRITE | PROT_EXEC);
		if (!bad)
			vdso[LEN - 1] ^= 1;
	} else if (strcmp(argv[2], "gone") == 0) {
		bad = munmap(vdso, LEN);
	} else {
		char *to = mmap(NULL, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		bad = mremap(vdso, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to;
	}
	fd = open(argv[1], O_WRONLY | O_CREAT, 0666);
	if (bad || write(fd, "ready\n", 6) != 6)
		return 1;
	close(fd);
	for (;;)
		syscall(SYS_pause);
}
