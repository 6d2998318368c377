/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals: what is done about each of the 64, masks and alternate stacks of
 * each thread, and what is pending for the task and for its threads, in order
 * and with its siginfo.
 */
#include <pthread.h>
#include <semaphore.h>

#include "res.h"

#define THREADS 3	/* the main one is number 0 */
#define RT_BASE 34	/* SIGRTMIN of glibc, as a constant */
#define RT RT_BASE
#define SENT_MAX 8
#define BIT(sig) (1ull << ((sig) - 1))

/* The kernel's idea of a sigaction: libc hides the restorer. */
struct kernel_action { uint64_t handler, flags, restorer, mask; };

struct sent { int sig, code, value; };

/* Sent to the task: what one sigtimedwait() after another must find, lowest number first, each in order of sending. */
static const struct sent to_task[SENT_MAX] = {
	{ SIGHUP, SI_USER, 0 },
	{ SIGTERM, SI_QUEUE, 77 },
	{ SIGCHLD, CLD_EXITED, 42 },
	{ RT_BASE + 6, SI_QUEUE, 1 }, { RT_BASE + 6, SI_QUEUE, 2 }, { RT_BASE + 6, SI_QUEUE, 3 },
	{ RT_BASE + 7, SI_QUEUE, 4 }, { RT_BASE + 7, SI_USER, 0 },
};
static const struct sent to_thread[SENT_MAX] = {
	{ SIGQUIT, SI_TKILL, 0 },
	{ SIGUSR2, SI_QUEUE, 10 },
	{ RT_BASE + 8, SI_QUEUE, 20 }, { RT_BASE + 8, SI_QUEUE, 21 }, { RT_BASE + 8, SI_TKILL, 0 }, { RT_BASE + 8, SI_QUEUE, 22 },
	{ RT_BASE + 9, SI_QUEUE, 30 }, { RT_BASE + 9, SI_QUEUE, 30 },
};

struct thread {
	struct res *r;
	int number;
	uint64_t mask;
	stack_t stack;
	sem_t check, checked;
	/* by the handler */
	volatile uint64_t handled_mask;
	volatile int handled_value;
	volatile bool handled_on_stack;
};

static __thread struct thread *self;

static uint64_t mask_now(void)
{
	uint64_t mask = 0;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8);
	return mask;
}

static void handler(int sig, siginfo_t *si, void *context)
{
	char here;

	(void)sig;
	(void)context;
	self->handled_mask = mask_now();
	self->handled_value = si->si_value.sival_int;
	self->handled_on_stack = &here >= (char *)self->stack.ss_sp && &here < (char *)self->stack.ss_sp + self->stack.ss_size;
}

static void actions_set(struct res *r)
{
	struct sigaction on_stack = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
	struct sigaction odd = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESETHAND };
	struct sigaction ignore = { .sa_handler = SIG_IGN, .sa_flags = SA_NOCLDWAIT };
	struct sigaction child = { .sa_handler = SIG_DFL, .sa_flags = SA_NOCLDSTOP };

	sigaddset(&on_stack.sa_mask, SIGHUP);
	sigaddset(&on_stack.sa_mask, SIGRTMIN + 20);
	sigfillset(&odd.sa_mask);
	MUST(r, sigaction(RT, &on_stack, NULL) == 0);
	MUST(r, sigaction(SIGWINCH, &odd, NULL) == 0);
	MUST(r, sigaction(SIGRTMAX - 1, &odd, NULL) == 0);
	MUST(r, sigaction(SIGPIPE, &ignore, NULL) == 0);
	MUST(r, sigaction(SIGTTOU, &ignore, NULL) == 0);
	MUST(r, sigaction(SIGCHLD, &child, NULL) == 0);
	MUST(r, sigaction(SIGSEGV, &on_stack, NULL) == 0);
}

static void actions_read(struct res *r, struct kernel_action *actions)
{
	for (int sig = 1; sig <= 64; sig++)
		WANT_EQ(r, syscall(SYS_rt_sigaction, sig, NULL, &actions[sig], 8), 0, "sigaction %d", sig);
}

static void actions_check(struct res *r, const struct kernel_action *was)
{
	struct kernel_action is[65];

	actions_read(r, is);
	for (int sig = 1; sig <= 64; sig++) {
		WANT_EQ(r, is[sig].handler, was[sig].handler, "signal %d: handler", sig);
		WANT_EQ(r, is[sig].flags, was[sig].flags, "signal %d: flags", sig);
		WANT_EQ(r, is[sig].restorer, was[sig].restorer, "signal %d: restorer", sig);
		WANT_EQ(r, is[sig].mask, was[sig].mask, "signal %d: mask", sig);
	}
}

static void send(struct res *r, const struct sent *s, pid_t tid)
{
	siginfo_t si = { .si_code = SI_QUEUE };
	int ret;

	si.si_value.sival_int = s->value;
	si.si_pid = getpid();
	if (s->sig == SIGCHLD) {	/* a real one, of a child that was waited for */
		pid_t child = fork();

		if (child == 0)
			_exit(s->value);
		ret = waitpid(child, NULL, 0) == child ? 0 : -1;
	} else if (tid)
		ret = s->code == SI_TKILL ? tgkill(getpid(), tid, s->sig) : syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, s->sig, &si);
	else
		ret = s->code == SI_USER ? kill(getpid(), s->sig) : sigqueue(getpid(), s->sig, si.si_value);
	MUST(r, ret == 0);
}

static void queue_check(struct res *r, const char *who, const struct sent *wanted)
{
	const struct timespec now = { 0, 0 };
	siginfo_t si;
	sigset_t set;

	for (int i = 0; i < SENT_MAX; i++) {
		const struct sent *w = &wanted[i];

		sigemptyset(&set);	/* one number at a time, so that the two queues of a thread don't mix */
		sigaddset(&set, w->sig);
		int sig = syscall(SYS_rt_sigtimedwait, &set, &si, &now, 8);	/* libc's turns SI_TKILL into SI_USER */
		WANT_EQ(r, sig, w->sig, "%s: pending signal %d of the queue", who, i);
		if (sig < 0)
			continue;
		WANT_EQ(r, si.si_code, w->code, "%s: pending %d: si_code", who, i);
		WANT_EQ(r, si.si_uid, getuid(), "%s: pending %d: si_uid", who, i);
		if (w->sig == SIGCHLD)
			WANT_EQ(r, si.si_status, w->value, "%s: pending %d: si_status", who, i);
		else
			WANT_EQ(r, si.si_pid, getpid(), "%s: pending %d: si_pid", who, i);
		WANT(r, w->code != SI_QUEUE || si.si_value.sival_int == w->value,
		     "%s: pending %d: value: wanted %d, found %d", who, i, w->value, si.si_value.sival_int);
	}
}

static void nothing_pending(struct res *r, const char *who)
{
	uint64_t pending = 0;

	syscall(SYS_rt_sigpending, &pending, 8);
	WANT_EQ(r, pending, 0, "%s: still pending after all was taken", who);
}

static void thread_set(struct res *r, struct thread *t)
{
	size_t size = 16384 + 4096 * t->number;

	self = t;
	t->r = r;
	t->mask = ~(BIT(RT) | BIT(SIGSEGV) | BIT(SIGKILL) | BIT(SIGSTOP) | BIT(32) | BIT(33) | BIT(50 + t->number));
	t->stack = (stack_t){ .ss_sp = malloc(size), .ss_size = size };
	MUST(r, sigaltstack(&t->stack, NULL) == 0);
	MUST(r, syscall(SYS_rt_sigprocmask, SIG_SETMASK, &t->mask, NULL, 8) == 0);
	for (int i = 0; t->number == 1 && i < SENT_MAX; i++)
		send(r, &to_thread[i], gettid());
}

static void thread_check(struct thread *t)
{
	const uint64_t in_handler = t->mask | BIT(SIGHUP) | BIT(SIGRTMIN + 20) | BIT(RT);
	siginfo_t si = { .si_code = SI_QUEUE };
	stack_t stack;
	char who[32];

	sprintf(who, "thread %d", t->number);
	WANT_EQ(t->r, mask_now(), t->mask, "%s: mask", who);
	sigaltstack(NULL, &stack);
	WANT(t->r, stack.ss_sp == t->stack.ss_sp && stack.ss_size == t->stack.ss_size && stack.ss_flags == t->stack.ss_flags,
	     "%s: altstack: wanted %p %zu %d, found %p %zu %d", who, t->stack.ss_sp, t->stack.ss_size, t->stack.ss_flags,
	     stack.ss_sp, stack.ss_size, stack.ss_flags);
	si.si_value.sival_int = 1000 * t->r->round + t->number;
	syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), RT, &si);
	WANT_EQ(t->r, t->handled_value, 1000 * t->r->round + t->number, "%s: value the handler got", who);
	WANT(t->r, t->handled_on_stack, "%s: handler ran elsewhere than on the altstack", who);
	WANT_EQ(t->r, t->handled_mask, in_handler, "%s: mask in the handler", who);
	if (t->number == 1) {
		queue_check(t->r, who, to_thread);
		for (int i = 0; i < SENT_MAX; i++)
			send(t->r, &to_thread[i], gettid());
	}
}

static void *thread_run(void *arg)
{
	struct thread *t = arg;

	thread_set(t->r, t);
	for (;;) {
		sem_post(&t->checked);
		while (sem_wait(&t->check))
			;
		thread_check(t);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static struct thread threads[THREADS];
	static struct kernel_action actions[65];
	struct res r = res_start(argc, argv);
	pthread_t id;

	actions_set(&r);
	thread_set(&r, &threads[0]);
	for (int i = 1; i < THREADS; i++) {
		threads[i].number = i;
		threads[i].r = &r;
		sem_init(&threads[i].check, 0, 0);
		sem_init(&threads[i].checked, 0, 0);
		MUST(&r, pthread_create(&id, NULL, thread_run, &threads[i]) == 0);
		sem_wait(&threads[i].checked);
	}
	actions_read(&r, actions);
	for (;;) {
		for (int i = 0; i < SENT_MAX; i++)
			send(&r, &to_task[i], 0);
		if (r.round == 0)
			res_ready(&r);
		else
			res_done(&r);
		res_next(&r);
		actions_check(&r, actions);
		for (int i = 0; i < THREADS; i++) {
			if (i == 0) {
				thread_check(&threads[0]);
				continue;
			}
			sem_post(&threads[i].check);
			while (sem_wait(&threads[i].checked))
				;
		}
		queue_check(&r, "task", to_task);
		nothing_pending(&r, "task");
	}
}
