/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory MIB [CHILDREN]: fills so much private memory with random words, then waits. SIGUSR1: it checks them all. So many
 * children have the same memory by copy on write, but for one page of 64, which each of them has written.
 *
 * Board: 1 tasks that are ready, 2 checks.
 */
#include <signal.h>

#include "board.h"

enum { FILLED = BOARD_FIRST, CHECKS };

#define PAGE_WORDS 512u
#define OWN_PAGES  64u          /* one page of so many, another one in each child */

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* What the child `number` has changed of this word; 0 is the parent. */
static uint64_t change(size_t word, unsigned int number)
{
	return number && word % (PAGE_WORDS * OWN_PAGES) == number * PAGE_WORDS ? UINT64_MAX : 0;
}

static unsigned int make_children(unsigned int count, uint64_t *at, size_t words)
{
	for (unsigned int number = 1; number <= count; number++) {
		pid_t pid = fork();

		if (pid < 0)
			exit(1);
		if (pid)
			continue;
		for (size_t i = number * PAGE_WORDS; i < words; i += PAGE_WORDS * OWN_PAGES)
			at[i] ^= change(i, number);
		return number;
	}
	return 0;
}

int main(int argc, char **argv)
{
	const size_t words = (argc > 1 ? strtoul(argv[1], NULL, 10) : 1) << 17;
	board_slot *board = board_open();
	uint64_t *at = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t state = 88172645463325252;
	unsigned int number;
	sigset_t usr1;
	int sig;

	if (at == MAP_FAILED)
		return 1;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	for (size_t i = 0; i < words; i++)
		at[i] = next(&state);
	number = make_children(argc > 2 ? (unsigned int)strtoul(argv[2], NULL, 10) : 0, at, words);
	for (atomic_fetch_add(&board[FILLED], 1); sigwait(&usr1, &sig) == 0; atomic_fetch_add(&board[CHECKS], 1)) {
		uint64_t wrong = 0;

		state = 88172645463325252;
		for (size_t i = 0; i < words; i++)
			wrong += at[i] != (next(&state) ^ change(i, number));
		board_check(board, wrong == 0);
	}
	return 0;
}
