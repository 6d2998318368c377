/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leaver MIB WAY: fills so much memory, and at SIGUSR1 gives it up in some way: exec, exit, term (a signal), unmap,
 * discard. Threads meanwhile take locks whose words the kernel writes (priority inheritance, robust), and come and go.
 * At SIGUSR2 it looks whether all its memory is there. Board: 1 filled, 2 looks, 3 locks taken, 4 threads that came and
 * went, 5 gone on after SIGUSR1.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "board.h"

enum { FILLED = BOARD_FIRST, LOOKS, LOCKED, CAME, WENT_ON };

static board_slot *board;
static pthread_mutex_t lock, left;      /* left: by threads that die with it */
static uint64_t *memory, words;
static _Atomic bool leaving;

static uint64_t word(uint64_t i)
{
	return (i + 1) * 0x9e3779b97f4a7c15ull;
}

static void *contender(void *counter)
{
	volatile uint64_t *n = counter;

	for (;;) {
		board_check(board, pthread_mutex_lock(&lock) == 0);
		*n = *n + 1;
		board_check(board, pthread_mutex_unlock(&lock) == 0);
		atomic_fetch_add(&board[LOCKED], 1);
	}
	return NULL;
}

static void *dies_with_it(void *arg)
{
	int r = pthread_mutex_lock(&left);

	board_check(board, r == 0 || r == EOWNERDEAD);
	if (r == EOWNERDEAD)
		board_check(board, pthread_mutex_consistent(&left) == 0);
	return arg;
}

static void *comes_and_goes(void *arg)
{
	for (pthread_t t;; atomic_fetch_add(&board[CAME], 1)) {
		int r = pthread_create(&t, NULL, dies_with_it, arg);

		if (r == EAGAIN && leaving)     /* clone(2) fails while an exec of the same process looks for its file */
			continue;
		board_check(board, r == 0);
		board_check(board, pthread_join(t, NULL) == 0);
	}
	return NULL;
}

static void init_lock(pthread_mutex_t *m, int protocol)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, protocol);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(m, &attr);
}

static void give_up(const char *way)
{
	leaving = strcmp(way, "exec") == 0;
	if (leaving)
		execl("/bin/sleep", "sleep", "1000", (char *)NULL);
	if (strcmp(way, "exit") == 0)
		_exit(3);
	if (strcmp(way, "term") == 0)
		kill(getpid(), SIGTERM);
	if (strcmp(way, "unmap") == 0)
		board_check(board, munmap(memory, words * 8) == 0);
	if (strcmp(way, "discard") == 0)
		board_check(board, madvise(memory, words * 8, MADV_DONTNEED) == 0);
	atomic_fetch_add(&board[WENT_ON], 1);
}

static void look(void)
{
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < words; i++)
		wrong += memory[i] != word(i);
	board_check(board, wrong == 0);
	atomic_fetch_add(&board[LOOKS], 1);
}

int main(int argc, char **argv)
{
	static uint64_t counter;
	pthread_t t;
	sigset_t usr;
	int sig;

	if (argc < 3)
		return 2;
	board = board_open();
	words = strtoul(argv[1], NULL, 10) << 17;
	memory = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (uint64_t i = 0; i < words; i++)
		memory[i] = word(i);
	sigemptyset(&usr);
	sigaddset(&usr, SIGUSR1);
	sigaddset(&usr, SIGUSR2);
	sigprocmask(SIG_BLOCK, &usr, NULL);
	init_lock(&lock, PTHREAD_PRIO_INHERIT);
	init_lock(&left, PTHREAD_PRIO_NONE);
	for (int i = 0; i < 3; i++)
		pthread_create(&t, NULL, i < 2 ? contender : comes_and_goes, &counter);
	for (atomic_fetch_add(&board[FILLED], 1); sigwait(&usr, &sig) == 0;) {
		if (sig == SIGUSR1)
			give_up(argv[2]);
		else
			look();
	}
	return 0;
}
