/* SPDX-License-Identifier: Apache-2.0 */
/*
 * writer MIB RATE: fills so much private memory, then writes RATE MiB a second to random pages of it and reads the clock
 * all the time: the longest gap between two looks at it is what somebody did to the program.  RATE 0: an idle program, which
 * sleeps for a millisecond between two looks and leaves the processors to others.
 *
 * Board: 1 filled; 2 the longest gap, in ns (a reader sets it to 0: from then on); 3 pages to write at once and then to
 * stand (set by a reader; 0 again when they are written, each another page); 4 looks, each counted when its gap is told.
 */
#include <string.h>
#include <time.h>

#include "board.h"

enum { FILLED = BOARD_FIRST, GAP, WRITE_AND_STAND, LOOKS };

#define PAGE 4096u

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_1_ms(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Pages that lie as far from one another as can be. */
static void write_and_stand(uint8_t *at, uint64_t pages, board_slot *board)
{
	uint64_t count = atomic_load(&board[WRITE_AND_STAND]);

	for (uint64_t i = 0; i < count; i++)
		at[i * (pages / count) * PAGE + 8]++;
	atomic_store(&board[WRITE_AND_STAND], 0);
	while (atomic_load(&board[WRITE_AND_STAND]) == 0)
		sleep_1_ms();
}

int main(int argc, char **argv)
{
	const uint64_t pages = strtoull(argc > 1 ? argv[1] : "1", NULL, 10) << 8;
	const uint64_t pages_a_second = strtoull(argc > 2 ? argv[2] : "0", NULL, 10) << 8;
	board_slot *board = board_open();
	uint8_t *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t state = 88172645463325252, written = 0, begin, last;

	if (at == MAP_FAILED)
		return 1;
	for (uint64_t i = 0; i < pages; i++)
		memcpy(at + i * PAGE, &(uint64_t){ next(&state) | 1 }, 8);
	atomic_store(&board[FILLED], 1);
	for (begin = last = now_ns();;) {
		uint64_t now = now_ns();

		if (now - last > atomic_load(&board[GAP]))
			atomic_store(&board[GAP], now - last);
		last = now;
		atomic_fetch_add(&board[LOOKS], 1);
		if (pages_a_second == 0)
			sleep_1_ms();
		if (written < (now - begin) / 1000 * pages_a_second / 1000000) {
			at[next(&state) % pages * PAGE + 16]++;
			written++;
		}
		if (atomic_load(&board[WRITE_AND_STAND])) {
			write_and_stand(at, pages, board);
			begin = last = now_ns();
			written = 0;
		}
	}
}
