/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A board: counters that a test program raises and a test reads, in a file that
 * both see (the file `board` in the program's working directory). So a test can
 * wait for life without touching the program. Slot 0 counts what went wrong:
 * board_check() adds to it, and says what on stderr.
 *
 * board_open() maps the board MAP_SHARED; children inherit it. Slots are u64.
 */
#ifndef FERRY_TESTS_BOARD_H
#define FERRY_TESTS_BOARD_H

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BOARD_WRONG, BOARD_FIRST, BOARD_SLOTS = 512 };

typedef _Atomic uint64_t board_slot;

static inline board_slot *board_open(void)
{
	int fd = open("board", O_RDWR | O_CREAT, 0644);
	void *at = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, BOARD_SLOTS * sizeof(board_slot)) == 0)
		at = mmap(NULL, BOARD_SLOTS * sizeof(board_slot), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED) {
		perror("board");
		exit(1);
	}
	close(fd);
	return at;
}

#define board_check(board, ok)                                                                \
	do {                                                                                  \
		if (!(ok)) {                                                                  \
			dprintf(2, "%s:%d: not so: %s (errno %m)\n", __FILE__, __LINE__, #ok); \
			atomic_fetch_add(&(board)[BOARD_WRONG], 1);                           \
		}                                                                             \
	} while (0)

#endif
