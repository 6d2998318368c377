/* SPDX-License-Identifier: Apache-2.0 */
/* SIGKILL of the asker at random instants: the asked go on as if nobody had ever come. */
#include "tasks.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/own.h"
#include "inject/question.h"

#define ROUNDS  100
#define THREADS 3

enum role { SPINS, SLEEPS, WAITS };

struct board {
	atomic_ulong beat[THREADS], tid[THREADS], wrong;
	char what[100];                 /* the last thing that was wrong */
	atomic_ulong asked;             /* questions that were answered */
	pid_t target;
	bool takes_fds;
};

static struct board *board;

static void is_wrong(const char *what)
{
	snprintf(board->what, sizeof(board->what), "%s (errno %d)", what, errno);
	atomic_fetch_add(&board->wrong, 1);
}

static void spin_once(void)
{
	uint64_t rbx = 0x1111, r12 = 0x2222, xmm = 0x4444, n = 20000;

	__asm__ volatile("movq %2, %%xmm7\n"
			 "1: movq %%xmm7, %%rax\n"
			 "push %%rax\n"
			 "dec %3\n"
			 "pop %%rax\n"
			 "jnz 1b\n"
			 "movq %%rax, %2\n"
			 : "+b"(rbx), "+r"(r12), "+r"(xmm), "+r"(n)
			 :
			 : "rax", "xmm7", "cc", "memory");
	if (rbx != 0x1111 || r12 != 0x2222 || xmm != 0x4444)
		is_wrong("a register");
}

static void sleep_once(void)
{
	if (nanosleep(&(struct timespec){ 0, 700000 }, NULL) != 0)
		is_wrong("nanosleep");
}

static void wait_once(pthread_mutex_t *lock, pthread_cond_t *cond)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += 600000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	pthread_mutex_lock(lock);
	int r = pthread_cond_timedwait(cond, lock, &t);
	pthread_mutex_unlock(lock);
	if (r != ETIMEDOUT && r != 0)
		is_wrong("cond_timedwait");
}

static void *lives(void *arg)
{
	enum role role = (enum role)(uintptr_t)arg;
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	uint64_t kept[512];
	sigset_t mask, now;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1 + (int)role % 2);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	for (size_t i = 0; i < ARRAY_LEN(kept); i++)
		kept[i] = i * 0x9e3779b97f4a7c15u;
	atomic_store(&board->tid[role], (unsigned long)gettid());
	for (;;) {
		role == SPINS ? spin_once() : role == SLEEPS ? sleep_once() : wait_once(&lock, &cond);
		for (size_t i = 0; i < ARRAY_LEN(kept); i++)
			if (((volatile uint64_t *)kept)[i] != i * 0x9e3779b97f4a7c15u)
				is_wrong("stack");
		pthread_sigmask(SIG_SETMASK, NULL, &now);
		if (memcmp(&now, &mask, 8) != 0)
			is_wrong("mask");
		atomic_fetch_add(&board->beat[role], 1);
	}
	return NULL;
}

static void target(void *arg)
{
	pthread_t t;

	(void)arg;
	for (uintptr_t role = 1; role < THREADS; role++)
		pthread_create(&t, NULL, lives, (void *)role);
	lives(NULL);
}

/* The leader's turn to make a descriptor, and to close it. */
static int take_fd(struct subject *s, struct err *err)
{
	own_fd fd = -1;
	int r = question_take_fd(s, SYS_epoll_create1, EPOLL_CLOEXEC, &fd, err);

	if (r == 0)
		atomic_fetch_add(&board->asked, 1);
	return r;
}

/* Holds all threads, asks each, lets them go, and again, until it dies. */
static int ask_once(pid_t pid, struct err *err)
{
	struct subject s[THREADS] = { 0 };
	struct proc_maps maps = { 0 };
	struct gadgets g;
	struct ptrace_stop stop;
	int r = 0;

	for (int i = 0; r == 0 && i < THREADS; i++) {
		pid_t tid = (pid_t)atomic_load(&board->tid[i]);

		r = ptrace_seize(tid, PTRACE_O_TRACESYSGOOD, err);
		if (r == 0)
			r = ptrace_interrupt(tid, err);
		if (r == 0)
			r = ptrace_wait(tid, &stop, NULL, err);
		if (r == 0)
			r = subject_see(tid, &s[i], err);
	}
	if (r == 0)
		r = proc_maps(pid, &maps, err);
	if (r == 0)
		r = gadgets_find(pid, &maps, &g, err);
	if (r == 0 && board->takes_fds)
		g.signal = gadgets_choose_signal(&g, 0, 0);
	for (int i = 0; r == 0 && i < THREADS; i++) {
		r = subject_open(&s[i], &g, &maps, s, THREADS, err);
		for (int k = 0; r == 0 && i == 0 && k < 4 && board->takes_fds; k++)
			r = take_fd(&s[i], err);
		for (int k = 0; r == 0 && k < 4 && !board->takes_fds; k++) {
			struct question q = { .subject = &s[i], .nr = SYS_gettid };

			r = question_ask(&q, 1, err);
			if (r == 0 && q.answer == s[i].tid)
				atomic_fetch_add(&board->asked, 1);
		}
		if (r == 0)
			r = subject_close(&s[i], err);
	}
	for (int i = 0; r == 0 && i < THREADS; i++) {
		r = ptrace_detach(s[i].tid, err);
		subject_free(&s[i]);
	}
	proc_maps_free(&maps);
	return r;
}

static void asker(void *arg)
{
	struct err err;

	(void)arg;
	while (ask_once(board->target, &err) == 0)
		;
	snprintf(board->what, sizeof(board->what), "asker: %.80s", err.text);
	atomic_fetch_add(&board->wrong, 1);
	_exit(1);
}

static int count_fds(pid_t pid)
{
	struct proc_ids fds = { 0 };
	struct err err;
	int n = proc_fds(pid, &fds, &err) < 0 ? -1 : (int)fds.len;

	vec_free(&fds);
	return n;
}

static void kill_askers(bool takes_fds)
{
	unsigned int seed = getenv("SEED") ? (unsigned int)atoi(getenv("SEED")) : (unsigned int)time(NULL);
	int fds;

	print_message("SEED=%u\n", seed);
	srandom(seed);
	board = task_board(sizeof(*board));
	board->takes_fds = takes_fds;
	board->target = task_fork(target, NULL);
	for (int i = 0; i < THREADS; i++)
		until_more(&board->beat[i], 3);
	fds = count_fds(board->target);
	for (int round = 0; round < ROUNDS; round++) {
		unsigned long asked = atomic_load(&board->asked);
		pid_t pid = task_fork(asker, NULL);

		until_more(&board->asked, asked + (unsigned long)random() % 10);
		usleep((useconds_t)random() % 400);             /* whatever it does then */
		task_end(pid);
		for (int i = 0; i < THREADS; i++)
			until_more(&board->beat[i], atomic_load(&board->beat[i]) + 1);
		if (atomic_load(&board->wrong))
			fail_msg("round %d, SEED=%u: %s", round, seed, board->what);
		if (count_fds(board->target) != fds)
			fail_msg("round %d, SEED=%u: %d descriptors became %d", round, seed, fds, count_fds(board->target));
	}
	task_end(board->target);
}

static void at_random_instants(void **state)
{
	(void)state;
	kill_askers(false);
}

static void while_a_descriptor_is_taken(void **state)
{
	(void)state;
	kill_askers(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_random_instants), cmocka_unit_test(while_a_descriptor_is_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
