/* SPDX-License-Identifier: Apache-2.0 */
#include "mutator.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define WINDOW_AT ((uint8_t *)0x10000000000)	/* far from where the kernel puts things by itself */
#define WINDOW_APART 0x4000000
#define THREAD_STACK (2 << 20)

static struct page main_pages[2048], second_pages[1024], heap_pages[256];
static struct process self = {
	.window = {
		[WINDOW_MAIN] = { "main", WINDOW_AT, 2048, main_pages },
		[WINDOW_SECOND] = { "second", WINDOW_AT + WINDOW_APART, 1024, second_pages },
		[WINDOW_HEAP] = { "heap", NULL, 256, heap_pages },
	},
};

/* ---- one step at a time: a ticket each, first come, first served ---- */

void step_lock(struct process *p)
{
	uint32_t mine = atomic_fetch_add(&p->ticket, 1);

	while (atomic_load(&p->serving) != mine)
		sched_yield();
}

void step_unlock(struct process *p)
{
	atomic_fetch_add(&p->serving, 1);
}

/* ---- the barrier ---- */

static board_slot *words_of(const struct process *p)
{
	return p->board + BOARD_PROCESS + p->id * PROCESS_WORDS;
}

static bool others_parked(const struct process *p, uint64_t number)
{
	for (int i = 1; i < p->worker_count; i++)
		if (atomic_load(&p->worker[i].parked) != number)
			return false;
	return true;
}

/* The children that are told of are reaped by nobody while this process is parked. */
static void answer(const struct process *p, uint64_t number)
{
	board_slot *words = words_of(p);
	uint64_t kids = 0, check = atomic_load(&p->board[BOARD_CHECK]);

	for (int i = 0; i < KIDS; i++)
		if (p->kid[i].id) {
			kids |= 1ull << p->kid[i].id;
			p->board[BOARD_PROCESS + p->kid[i].id * PROCESS_WORDS + PROCESS_PID] = p->kid[i].pid;
		}
	words[PROCESS_KIDS] = kids;
	words[PROCESS_PARKED] = number;
	if (words[PROCESS_CHECKED] != check) {
		digest_write(p, check);
		words[PROCESS_CHECKED] = check;
	}
}

static void rest(unsigned int turn)
{
	const struct timespec pause = { 0, 100000 };

	if (turn < 1000)
		__builtin_ia32_pause();
	else
		nanosleep(&pause, NULL);
}

static void barrier(struct worker *me)
{
	struct process *p = me->process;
	uint64_t number;

	for (unsigned int turn = 0; (number = atomic_load(&p->board[BOARD_STOP])); turn++) {
		atomic_store(&me->parked, number);
		if (me->is_main && others_parked(p, number))
			answer(p, number);
		rest(turn);
	}
	atomic_store(&me->parked, 0);
}

void live(struct worker *me, uint32_t steps)
{
	while (steps--) {
		barrier(me);
		if (!me->is_main)
			step_lock(me->process);
		ops_step(me);
		if (!me->is_main)
			step_unlock(me->process);
		atomic_fetch_add(&me->process->board[BOARD_STEPS], 1);
	}
}

/* ---- processes ---- */

static void *live_as_second(void *worker)
{
	live(worker, -1);
	return NULL;
}

static void start_second(struct process *p)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	p->worker_count = 2;
	board_check(p->board, pthread_create(&thread, &attr, live_as_second, &p->worker[1]) == 0);
	pthread_attr_destroy(&attr);
}

static void begin(struct process *p, uint64_t seed, bool second)
{
	struct worker *w = p->worker;

	p->worker_count = 1;
	for (int i = 0; i < WORKERS; i++) {
		w[i].process = p;
		w[i].random = mix(seed + i);
		w[i].parked = 0;
		w[i].window_count = 0;
	}
	w[0].is_main = true;
	w[1].frame_count = 0;
	for (int i = 0; i < WINDOWS; i++) {
		struct worker *owner = &w[second && i == WINDOW_SECOND];

		owner->windows[owner->window_count++] = i;
	}
	words_of(p)[PROCESS_CHECKED] = atomic_load(&p->board[BOARD_CHECK]);
	if (second)
		start_second(p);
}

/* Whoever ends, ends what is below it. */
static void end_kids(struct process *p)
{
	for (int i = 0; i < KIDS; i++)
		if (p->kid[i].id) {
			kill(p->kid[i].pid, SIGKILL);
			board_check(p->board, waitpid(p->kid[i].pid, NULL, 0) == p->kid[i].pid);
		}
}

void live_as_kid(struct process *p, int id)
{
	struct worker *me = &p->worker[0];

	p->id = id;
	p->ticket = p->serving = 0;
	memset(p->kid, 0, sizeof(p->kid));
	begin(p, mix(p->seed + id) + me->random, below(me, 3) == 0);
	live(me, 20 + below(me, 400));
	end_kids(p);
	_exit(id);
}

/* ---- what is there from the beginning ---- */

/* malloc takes what it needs before the heap is ours. */
static void take_heap(struct process *p)
{
	void *volatile some = malloc(1);
	struct window *heap = &p->window[WINDOW_HEAP];
	const uintptr_t begins = ((uintptr_t)sbrk(0) + PAGE - 1) & -PAGE;

	free(some);
	board_check(p->board, brk((void *)begins) == 0);
	heap->base = (uint8_t *)begins;
	for (uint32_t i = 0; i < heap->pages; i++)
		heap->page[i].kind = BEYOND;
}

static void fill(struct process *p, int fd)
{
	struct worker *me = &p->worker[0];
	uint64_t page[PAGE / 8];

	for (int i = 0; i < FILE_PAGES; i++) {
		for (int j = 0; j < PAGE / 8; j++)
			page[j] = i % 8 ? chance(me) : 0;
		board_check(p->board, pwrite(fd, page, PAGE, (off_t)i * PAGE) == PAGE);
	}
}

static int make_file(struct process *p, const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);

	board_check(p->board, fd >= 0);
	fill(p, fd);
	return fd;
}

static void open_all(struct process *p, const char *direct)
{
	p->fd[FD_PRIVATE_FILE] = make_file(p, "private-file");
	p->fd[FD_SHARED_FILE] = make_file(p, "shared-file");
	for (int i = FD_MEMFD; i < FD_MEMFD + MEMFDS; i++) {
		p->fd[i] = memfd_create("mutated", 0);
		board_check(p->board, p->fd[i] >= 0 && ftruncate(p->fd[i], FILE_PAGES * PAGE) == 0);
	}
	p->fd[FD_DIRECT] = p->seed % 4 ? -1 : open(direct, O_RDONLY | O_DIRECT);	/* who has one, no tracker is believed of */
	board_check(p->board, pipe2(&p->fd[FD_PIPE], O_NONBLOCK) == 0);
}

/* ---- anew ---- */

void live_anew(struct worker *me)
{
	struct process *p = me->process;
	char words[3 + FDS][24], *argv[4 + FDS + 1] = { "mutator" };

	snprintf(words[0], sizeof(words[0]), "%lu", p->seed);
	snprintf(words[1], sizeof(words[1]), "%lu", me->random);
	snprintf(words[2], sizeof(words[2]), "%d", p->id);
	for (int i = 0; i < FDS; i++)
		snprintf(words[3 + i], sizeof(words[0]), "%d", p->fd[i]);
	for (int i = 0; i < 3 + FDS; i++)
		argv[1 + i] = words[i];
	execv("/proc/self/exe", argv);
}

static uint64_t from_before(struct process *p, char **argv)
{
	p->id = atoi(argv[3]);
	for (int i = 0; i < FDS; i++)
		p->fd[i] = atoi(argv[4 + i]);
	return strtoull(argv[2], NULL, 10);
}

int main(int argc, char **argv)
{
	const bool anew = argc == 4 + FDS;
	uint64_t random;

	if (argc < 3) {
		ops_print_names();
		return 0;
	}
	self.board = board_open();
	self.seed = strtoull(argv[1], NULL, 10);
	random = anew ? from_before(&self, argv) : self.seed;
	ops_weigh(self.seed);
	step_lock(&self);
	begin(&self, random, mix(random) % 4 > 0);
	if (!anew)
		open_all(&self, argv[2]);
	take_heap(&self);
	step_unlock(&self);
	live(&self.worker[0], self.id ? 200 : -1);
	end_kids(&self);
	return self.id;
}
