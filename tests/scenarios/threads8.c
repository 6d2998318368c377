/* SPDX-License-Identifier: Apache-2.0 */
/* Eight threads that count, half of them in short sleeps; each checks its own thread-local data. Sleeps that ended with EINTR are counted. */
#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "board.h"

enum { THREADS = 8, INTERRUPTIONS = BOARD_FIRST + THREADS };

static board_slot *board;
static __thread uint64_t own;

static void *count(void *arg)
{
	uint64_t i = (uintptr_t)arg;
	const struct timespec pause = { .tv_nsec = 1000000 };

	for (own = 0;; own++) {
		uint64_t before = atomic_fetch_add(&board[BOARD_FIRST + i], 1);

		board_check(board, before == own);
		if (nanosleep(&pause, NULL) < 0 && errno == EINTR)
			atomic_fetch_add(&board[INTERRUPTIONS], 1);
		for (volatile int spin = 0; i % 2 && spin < 10000; spin++)
			;
	}
	return NULL;
}

int main(void)
{
	pthread_t thread;

	board = board_open();
	for (uintptr_t i = 1; i < THREADS; i++)
		if (pthread_create(&thread, NULL, count, (void *)i))
			return 1;
	count(0);
	return 0;
}
