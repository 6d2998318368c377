/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tree of four: the root, two children and a grandchild. A token goes round
 * through four pipes; each task adds one to a sum in anonymous memory that all
 * share, and checks a private page that was written before the forks.
 */
#include "board.h"

enum { TASKS = 4 };

struct shared {
	_Atomic uint64_t sum;
};

static void go_round(board_slot *board, struct shared *shared, const char *private_page, int me, int from, int to)
{
	for (;;) {
		uint64_t token;

		board_check(board, read(from, &token, sizeof(token)) == sizeof(token));
		board_check(board, atomic_fetch_add(&shared->sum, 1) == token);
		for (int i = 0; i < 4096; i++)
			if (private_page[i] != (char)(i * 7))
				board_check(board, !"the private page is as it was");
		token++;
		atomic_fetch_add(&board[BOARD_FIRST + me], 1);
		usleep(200);
		board_check(board, write(to, &token, sizeof(token)) == sizeof(token));
	}
}

int main(void)
{
	board_slot *board = board_open();
	struct shared *shared = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t first = 0;
	int pipes[TASKS][2], me = 0;

	for (int i = 0; i < 4096; i++)
		page[i] = (char)(i * 7);
	for (int i = 0; i < TASKS; i++)
		if (pipe(pipes[i]) < 0)
			return 1;
	if (fork() == 0)
		me = 1;
	else if (fork() == 0)
		me = fork() == 0 ? 3 : 2;
	if (me == 0 && write(pipes[0][1], &first, sizeof(first)) < 0)
		return 1;
	go_round(board, shared, page, me, pipes[me][0], pipes[(me + 1) % TASKS][1]);
	return 0;
}
