/* SPDX-License-Identifier: Apache-2.0 */
/*
 * victim [interruptible]: a program that notices whatever is done to it.
 *
 * Its threads keep values in every general and vector register while they spin,
 * sleep in nanosleep, poll, futex and select, check memory, masks, alternate
 * stacks and the number of descriptors; timers of both kinds run. Two threads
 * wait for what never comes. Signals go to the spinning thread alone, so that
 * no other system call may ever end with EINTR: each that does is counted as
 * wrong, but for `interruptible`, where it is let pass.
 *
 * Life shows on the board: every slot of enum beat rises.
 */
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "board.h"
#include "victim_registers.h"

enum beat { SPIN = BOARD_FIRST, VECTOR, NAP, POLL, FUTEX, SELECT, MEMORY, ITIMER, POSIX_TIMER };

enum { PATTERN_WORDS = 1 << 19, SPINS = 200000, VECTOR_SPINS = 4000000, SHORT_NS = 1500000, SHORT_US = 1500 };

static board_slot *board;
static int interruptible;
static uint64_t pattern[PATTERN_WORDS];
static int idle_pipe[2];

static void beat(enum beat b)
{
	atomic_fetch_add(&board[b], 1);
}

/* A call gave `wanted` or, where that is allowed, was interrupted. */
static int as_wanted(long got, long wanted)
{
	return got == wanted || (got < 0 && errno == EINTR && interruptible);
}

/* What a thread is given at its start and must find until its end. */
struct self {
	sigset_t mask;
	stack_t altstack;
	int rounding;
};

static void self_make(struct self *s, int hears_signals)
{
	sigset_t all;

	sigfillset(&all);
	if (hears_signals) {
		sigdelset(&all, SIGALRM);
		sigdelset(&all, SIGRTMIN);
	}
	s->altstack = (stack_t){ .ss_sp = malloc(65536), .ss_size = 65536 };
	s->rounding = FE_UPWARD;
	board_check(board, sigaltstack(&s->altstack, NULL) == 0 && fesetround(s->rounding) == 0);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	pthread_sigmask(SIG_SETMASK, NULL, &s->mask);
}

static void self_check(const struct self *s)
{
	sigset_t mask;
	stack_t stack;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	board_check(board, memcmp(&mask, &s->mask, sizeof(uint64_t)) == 0);
	board_check(board, sigaltstack(NULL, &stack) == 0);
	board_check(board, stack.ss_sp == s->altstack.ss_sp && stack.ss_size == s->altstack.ss_size);
	board_check(board, fegetround() == s->rounding);
}

static void nap(void)
{
	const struct timespec t = { .tv_nsec = SHORT_NS };

	board_check(board, as_wanted(nanosleep(&t, NULL), 0));
}

static void *spin(void *hears_signals)
{
	struct self self;

	for (self_make(&self, hears_signals != NULL);; beat(SPIN)) {
		board_check(board, registers_spin_general(SPINS) == 0);
		self_check(&self);
	}
	return NULL;
}

static void *vector(void *arg)
{
	struct self self;

	for (self_make(&self, 0);; beat(VECTOR)) {
		board_check(board, registers_spin_vector(VECTOR_SPINS) == 0);
		self_check(&self);
		nap();
	}
	return arg;
}

static void *sleeper(void *arg)
{
	struct self self;

	for (self_make(&self, 0);; beat(NAP)) {
		nap();
		self_check(&self);
	}
	return arg;
}

static void *poller(void *arg)
{
	struct self self;

	for (self_make(&self, 0);; beat(POLL)) {
		struct pollfd p = { .fd = idle_pipe[0], .events = POLLIN };

		board_check(board, as_wanted(poll(&p, 1, SHORT_US / 1000 + 1), 0));
		self_check(&self);
	}
	return arg;
}

static void *futexer(void *arg)
{
	const struct timespec t = { .tv_nsec = SHORT_NS };
	uint32_t word = 7;
	struct self self;

	for (self_make(&self, 0);; beat(FUTEX)) {
		long got = syscall(SYS_futex, &word, FUTEX_WAIT, 7, &t, NULL, 0);

		board_check(board, got == -1 && (errno == ETIMEDOUT || (errno == EINTR && interruptible)));
		self_check(&self);
	}
	return arg;
}

static void *selecter(void *arg)
{
	struct self self;

	for (self_make(&self, 0);; beat(SELECT)) {
		struct timeval t = { .tv_usec = SHORT_US };
		fd_set set;

		FD_ZERO(&set);
		FD_SET(idle_pipe[0], &set);
		board_check(board, as_wanted(select(idle_pipe[0] + 1, &set, NULL, NULL, &t), 0));
		self_check(&self);
	}
	return arg;
}

static void *read_forever(void *arg)
{
	struct self self;
	char c;

	for (self_make(&self, 0);;)
		board_check(board, as_wanted(read(idle_pipe[0], &c, 1), 1));
	return arg;
}

static void *wait_forever(void *arg)
{
	uint32_t word = 7;
	struct self self;

	for (self_make(&self, 0);;)
		board_check(board, as_wanted(syscall(SYS_futex, &word, FUTEX_WAIT, 7, NULL, NULL, 0), 0));
	return arg;
}

/* Not by /proc/self/fd: a directory of a process that is gone can't be opened again by a restore. */
static int count_descriptors(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Checks all of the pattern and moves it on by one, so that every page changes between two dumps. */
static void walk_memory(void)
{
	const int descriptors = count_descriptors();
	struct self self;
	uint64_t generation = 0;

	for (self_make(&self, 0);; beat(MEMORY)) {
		uint64_t wrong = 0;

		for (uint64_t i = 0; i < PATTERN_WORDS; i++)
			wrong += pattern[i]++ != (generation ? i * 0x9e3779b97f4a7c15 + generation : 0);
		board_check(board, wrong == 0);
		if (generation++ == 0)
			for (uint64_t i = 0; i < PATTERN_WORDS; i++)
				pattern[i] = i * 0x9e3779b97f4a7c15 + 1;
		board_check(board, count_descriptors() == descriptors);
		self_check(&self);
		nap();
	}
}

static void on_signal(int sig)
{
	beat(sig == SIGALRM ? ITIMER : POSIX_TIMER);
}

static void start_timers(void)
{
	const struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK };
	const struct itimerval every_5_ms = { { 0, 5000 }, { 0, 5000 } };
	const struct itimerspec every_3_ms = { { 0, 3000000 }, { 0, 3000000 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	timer_t timer;

	sigaction(SIGALRM, &act, NULL);
	sigaction(SIGRTMIN, &act, NULL);
	board_check(board, setitimer(ITIMER_REAL, &every_5_ms, NULL) == 0);
	board_check(board, timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	board_check(board, timer_settime(timer, 0, &every_3_ms, NULL) == 0);
}

int main(int argc, char **argv)
{
	void *(*const threads[])(void *) = { vector, sleeper, poller, futexer, selecter, read_forever, wait_forever };
	sigset_t timers;
	pthread_t thread;

	interruptible = argc > 1 && strcmp(argv[1], "interruptible") == 0;
	board = board_open();
	sigemptyset(&timers);
	sigaddset(&timers, SIGALRM);
	sigaddset(&timers, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &timers, NULL);
	if (pipe(idle_pipe) < 0 || pthread_create(&thread, NULL, spin, board))
		return 1;
	for (size_t i = 0; i < sizeof(threads) / sizeof(threads[0]); i++)
		if (pthread_create(&thread, NULL, threads[i], NULL))
			return 1;
	start_timers();
	walk_memory();
	return 0;
}
