/* SPDX-License-Identifier: Apache-2.0 */
/* mapper FILE: maps FILE privately and shared, says so on the board, and sleeps. */
#include <sys/stat.h>

#include "board.h"

int main(int argc, char **argv)
{
	board_slot *board = board_open();
	int fd = argc > 1 ? open(argv[1], O_RDWR) : -1;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return 1;
	volatile char *priv = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	volatile char *shared = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (priv == MAP_FAILED || shared == MAP_FAILED)
		return 1;
	close(fd);
	priv[0] = shared[0] + 1;
	for (;; usleep(1000))
		atomic_fetch_add(&board[BOARD_FIRST], 1);
}
