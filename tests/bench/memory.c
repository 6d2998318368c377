/* SPDX-License-Identifier: Apache-2.0 */
/* memory MIB: fills so much private memory with random words, then waits. SIGUSR1: it checks them all. Board: 1 filled, 2 checks. */
#include <signal.h>

#include "board.h"

enum { FILLED = BOARD_FIRST, CHECKS };

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

int main(int argc, char **argv)
{
	const size_t words = (argc > 1 ? strtoul(argv[1], NULL, 10) : 1) << 17;
	board_slot *board = board_open();
	uint64_t *at = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t state = 88172645463325252;
	sigset_t usr1;
	int sig;

	if (at == MAP_FAILED)
		return 1;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	for (size_t i = 0; i < words; i++)
		at[i] = next(&state);
	for (atomic_fetch_add(&board[FILLED], 1); sigwait(&usr1, &sig) == 0; atomic_fetch_add(&board[CHECKS], 1)) {
		uint64_t wrong = 0;

		state = 88172645463325252;
		for (size_t i = 0; i < words; i++)
			wrong += at[i] != next(&state);
		board_check(board, wrong == 0);
	}
	return 0;
}
