/* SPDX-License-Identifier: Apache-2.0 */
/* crowd TASKS THREADS: so many tasks of so many threads, all asleep. Board: 1 threads that have begun. */
#include <pthread.h>

#include "board.h"

static board_slot *board;

static void *rest(void *arg)
{
	atomic_fetch_add(&board[BOARD_FIRST], 1);
	for (;;)
		pause();
	return arg;
}

int main(int argc, char **argv)
{
	const int tasks = argc > 1 ? atoi(argv[1]) : 1, threads = argc > 2 ? atoi(argv[2]) : 1;
	pthread_t thread;

	board = board_open();
	for (int i = 1; i < tasks; i++)
		if (fork() == 0)
			break;
	for (int i = 1; i < threads; i++)
		if (pthread_create(&thread, NULL, rest, NULL))
			return 1;
	rest(NULL);
	return 0;
}
