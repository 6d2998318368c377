/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A family of twenty: the root and its four heads, three kids each. All but the root live a while, end, and are followed by
 * another one; each takes turns in its place of memory that all share, in memory of its own, and on the board, which must
 * agree: two families on one board, or one from an older state, would not.
 *
 *	board	1..TASKS turns in each place, BORN who was born, PASSES how often the root has seen all of the fixed data
 */
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>

#include "board.h"

enum { HEADS = 4, KIDS = 3, PARENTS = 1 + HEADS, TASKS = PARENTS * (1 + KIDS), BORN = BOARD_FIRST + TASKS, PASSES };
enum { PAGE = 4096, PLACE = 64 * PAGE, FIXED = 1 << 20, SEEN_A_TURN = 32 * PAGE, FLEETING = 16 * PAGE };
enum { TURN_US = 2500 };

/* What the parent and the one in that place both know; it begins its memory there. */
struct place { uint64_t turns, total; };

struct family {
	board_slot *board;
	char *places;           /* PLACE bytes each, shared */
	uint64_t *fixed[2];     /* FIXED bytes of numbers; shared, and of each its own */
	size_t seen;
};

struct child { pid_t pid; int place; };

struct me {
	struct family *f;
	int number;
	uint64_t turns;
	uint64_t wrote[PLACE / PAGE];
	volatile uint64_t *fleeting;    /* unmapped and mapped again */
	struct child children[HEADS + KIDS];
	int born;
};

static void be(struct family *f, int number, uint64_t life);

static struct place *place_of(const struct family *f, int number)
{
	return (struct place *)(f->places + (size_t)number * PLACE);
}

/* How many turns: from 10 on, another number each time. */
static uint64_t life_of(const struct family *f, int number)
{
	uint64_t dice = (place_of(f, number)->total + (uint64_t)number) * 0x9e3779b97f4a7c15u >> 40;

	return (number < PARENTS ? 200 : 10) + dice % (number < PARENTS ? 100 : 40);
}

static void raise_child(struct me *me, struct child *c)
{
	uint64_t life = life_of(me->f, c->place);

	atomic_fetch_add(&me->f->board[BORN], 1);
	c->pid = fork();
	if (c->pid == 0)
		be(me->f, c->place, life);
	board_check(me->f->board, c->pid > 0);
}

/* The last words of a child are what its place says. */
static void bury(struct me *me, struct child *c, int status)
{
	board_check(me->f->board, WIFEXITED(status) && WEXITSTATUS(status) == (int)(place_of(me->f, c->place)->turns & 127));
	c->pid = 0;
}

static void look_after(struct me *me, bool last)
{
	for (int i = 0; i < me->born; i++) {
		struct child *c = &me->children[i];
		int status = 0;

		if (c->pid && waitpid(c->pid, &status, last ? 0 : WNOHANG) == c->pid)
			bury(me, c, status);
		if (!c->pid && !last)
			raise_child(me, c);
	}
}

static void use_fleeting(struct me *me)
{
	void *at = (void *)me->fleeting;

	if (at)
		board_check(me->f->board, *me->fleeting == me->turns - 1 && munmap(at, FLEETING) == 0);
	me->fleeting = mmap(at, FLEETING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	board_check(me->f->board, *me->fleeting == 0);
	*me->fleeting = me->turns;
}

static void take_turn(struct me *me)
{
	struct place *p = place_of(me->f, me->number);
	board_slot *board = me->f->board;
	size_t page = 1 + me->turns % (PLACE / PAGE - 1);
	uint64_t *there = (uint64_t *)((char *)p + page * PAGE);

	board_check(board, p->turns == me->turns && board[BOARD_FIRST + me->number] == p->total);
	if (me->wrote[page])
		board_check(board, *there == me->wrote[page]);
	use_fleeting(me);
	*there = me->wrote[page] = (uint64_t)getpid() << 32 | ++me->turns;
	p->turns = me->turns;
	board[BOARD_FIRST + me->number] = ++p->total;
}

/* A kid half of the way through its life, now and then, goes into a group of its own. */
static void be(struct family *f, int number, uint64_t life)
{
	struct me me = { .f = f, .number = number };

	place_of(f, number)->turns = 0;
	for (int i = 0; number < PARENTS && i < (number ? KIDS : HEADS + KIDS); i++)
		me.children[me.born++].place = i < KIDS ? PARENTS + number * KIDS + i : 1 + i - KIDS;
	while (me.turns < life) {
		take_turn(&me);
		look_after(&me, false);
		if (number % 3 == 0 && me.turns == life / 2)
			board_check(f->board, setpgid(0, 0) == 0);
		for (size_t end = f->seen + SEEN_A_TURN / 8; number == 0 && f->seen < end; f->seen++)
			board_check(f->board, f->fixed[0][f->seen] == f->seen * 7 && f->fixed[1][f->seen] == f->seen * 11);
		if (f->seen == FIXED / 8) {
			f->seen = 0;
			atomic_fetch_add(&f->board[PASSES], 1);
		}
		usleep(TURN_US);
	}
	look_after(&me, true);
	_exit((int)(me.turns & 127));
}

static void *memory(size_t len_bytes, int how)
{
	void *at = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, how | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		perror("memory");
		exit(1);
	}
	return at;
}

int main(void)
{
	struct family f = { .board = board_open(), .places = memory((size_t)TASKS * PLACE, MAP_SHARED),
			    .fixed = { memory(FIXED, MAP_SHARED), memory(FIXED, MAP_PRIVATE) } };

	for (size_t i = 0; i < FIXED / 8; i++) {
		f.fixed[0][i] = i * 7;
		f.fixed[1][i] = i * 11;
	}
	be(&f, 0, UINT64_MAX);
}
