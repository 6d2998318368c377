/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mutator SEED DIRECT: changes memory in seeded random steps, in every way that
 * a tracker of changed pages has to notice. test_incremental.py dumps it.
 * DIRECT is a file that can be read past the page cache.
 *
 *	process 0 (root)	forks 1 and 2, which fork 3 and 4: each lives some steps on its copy
 *	  worker 0 (main)	window 0, the heap, the pipe, the children
 *	  worker 1		window 1; in children by chance
 *
 * All memory that is mutated lies in windows: ranges of addresses whose pages
 * the process keeps a table of. What a page holds is in no table: at a barrier
 * all stands still, and each process writes what it sees to a file (digest.c).
 *
 * The harness drives by words on the board (../../lib/board.h), which outlives
 * the program and is no part of its images:
 *
 *	STOP	not 0: every worker goes to the barrier, under this number
 *	CHECK	a new number: every process writes the file truth.ID.NUMBER
 *
 * and each process answers in four words of its own. A restored process finds
 * itself at the barrier, sees new numbers, and answers those. The seed decides
 * which operations are frequent, rare, or not done at all.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/types.h>

#include "board.h"

enum {
	PAGE = 4096,
	HUGE_PAGES = 512,	/* in a huge page */
	WORKERS = 2,
	PROCESSES = 5,
	KIDS = 2,		/* that a process has at a time */
	FRAMES = 24,		/* of a deep stack */
	OPS_KEPT = 6,
	FILE_PAGES = 256,	/* of each file and memfd */
	MEMFDS = 2,
};

enum { BOARD_STOP = 1, BOARD_CHECK, BOARD_STEPS, BOARD_STALE, BOARD_PROCESS = 8, BOARD_OPS = 64 };
enum { PROCESS_PID, PROCESS_PARKED, PROCESS_CHECKED, PROCESS_KIDS, PROCESS_WORDS };

enum kind { FREE, ANON, HEAP, PRIVATE_FILE, PRIVATE_MEMFD, SHARED_FILE, SHARED_MEMFD, SHARED_ANON, BEYOND /* the heap's end */ };

struct page {
	uint8_t kind, prot;	/* of mmap(2) */
	uint16_t object;	/* which memfd or shared memory */
	uint32_t offset;	/* in it, or in the file; pages */
	uint32_t step;		/* of the last operation, by its worker's count */
	uint8_t ops[OPS_KEPT];	/* the last ones, newest first; 0: none */
};

struct window {
	const char *name;
	uint8_t *base;
	uint32_t pages;
	struct page *page;
};

enum { FD_PRIVATE_FILE, FD_SHARED_FILE, FD_MEMFD, FD_DIRECT = FD_MEMFD + MEMFDS /* or -1 */, FD_PIPE, FDS = FD_PIPE + 2 };
enum { WINDOW_MAIN, WINDOW_SECOND, WINDOW_HEAP, WINDOWS };

struct frame {
	const uint8_t *at;
	uint32_t pages;
};

struct worker {
	struct process *process;
	uint64_t random;
	uint32_t step;
	uint8_t op;				/* what it does just now */
	int windows[WINDOWS], window_count;	/* its own ones */
	struct frame frames[FRAMES];
	int frame_count;
	_Atomic uint64_t parked;		/* number of the barrier at which it stands, 0: runs */
	bool is_main;
};

struct process {
	int id;
	uint64_t seed;
	board_slot *board;
	struct window window[WINDOWS];
	struct worker worker[WORKERS];
	int worker_count;
	_Atomic uint32_t ticket, serving;	/* between worker 1's steps and a fork */
	struct {
		int id;		/* 0: none */
		pid_t pid;	/* also of the last one that was there */
	} kid[KIDS];
	int fd[FDS];
	uint16_t objects;	/* shared memories made so far */
};

/* ---- ops.c ---- */

/* Sets the seed's weights; once, in the root. */
void ops_weigh(uint64_t seed);
void ops_step(struct worker *me);
void ops_print_names(void);

/* ---- digest.c ---- */

/* All that the process has, into the file truth.ID.NUMBER. Touches no page that is not there. */
void digest_write(const struct process *p, uint64_t number);

/* ---- mutator.c ---- */

/* Steps, with barriers between. */
void live(struct worker *me, uint32_t steps);
/* In a new child: its whole life. */
__attribute__((noreturn)) void live_as_kid(struct process *p, int id);
/* exec: the same process, with nothing but its descriptors. Returns when it can't. */
void live_anew(struct worker *me);
void step_lock(struct process *p);
void step_unlock(struct process *p);

/* ---- chance ---- */

static inline uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9;
	x ^= x >> 27;
	x *= 0x94d049bb133111eb;
	return x ^ x >> 31;
}

static inline uint64_t chance(struct worker *me)
{
	me->random += 0x9e3779b97f4a7c15;
	return mix(me->random);
}

static inline uint32_t below(struct worker *me, uint32_t limit)
{
	return chance(me) % limit;
}
