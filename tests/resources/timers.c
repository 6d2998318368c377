/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interval timers and POSIX timers: which there are (with gaps in their
 * numbers), how they notify, what they have left, and that they still fire.
 * No wall clock is trusted: what is long has LONG_S left, and a test is over
 * long before SLACK_S have passed.
 */
#include <pthread.h>
#include <sys/time.h>

#include "res.h"

#define LONG_S 100000
#define SLACK_S 1000
#define TIMERS 10
#define KEPT (TIMERS - 3)	/* 2, 5 and 9 are deleted again */

enum arm { DISARMED, RELATIVE, ABSOLUTE };

static const struct spec {
	clockid_t clock;
	int notify, signal;
	enum arm arm;
	int interval_s;
} specs[TIMERS] = {
	{ CLOCK_REALTIME, SIGEV_SIGNAL, 40, RELATIVE, 0 },
	{ CLOCK_MONOTONIC, SIGEV_SIGNAL, 41, RELATIVE, 7777 },
	{ CLOCK_MONOTONIC, SIGEV_SIGNAL, 41, DISARMED, 0 },	/* deleted */
	{ CLOCK_REALTIME, SIGEV_SIGNAL, SIGALRM, ABSOLUTE, 33 },
	{ CLOCK_MONOTONIC, SIGEV_THREAD_ID, 42, RELATIVE, 5 },
	{ CLOCK_MONOTONIC, SIGEV_SIGNAL, 41, RELATIVE, 0 },	/* deleted */
	{ CLOCK_BOOTTIME, SIGEV_SIGNAL, 43, RELATIVE, 123 },
	{ CLOCK_MONOTONIC, SIGEV_NONE, 0, ABSOLUTE, 9 },
	{ CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, 44, RELATIVE, 11 },
	{ CLOCK_MONOTONIC, SIGEV_SIGNAL, 41, DISARMED, 0 },	/* deleted */
};

struct world {
	int ids[TIMERS];	/* the kernel's; -1 deleted */
	pid_t other_tid;
	int other_got;		/* value of the last timer signal it took */
	int fast;		/* a timer that fires all the time into a blocked signal */
	int disarmed;		/* one that never was armed */
	char list_was[4096], list_is[4096];
};

static bool deleted(int i)
{
	return i == 2 || i == 5 || i == 9;
}

/* The numbers are what is tested: the kernel's calls, not libc's handles. */
static int timer_new(struct res *r, clockid_t clock, int notify, int sig, int value, pid_t tid)
{
	struct sigevent ev = { .sigev_notify = notify, .sigev_signo = sig, .sigev_value.sival_int = value };
	int id = -1;

	ev._sigev_un._tid = tid;
	MUST(r, syscall(SYS_timer_create, clock, &ev, &id) == 0);
	return id;
}

static void timer_arm(struct res *r, int id, clockid_t clock, enum arm arm, time_t value_s, int interval_s)
{
	struct itimerspec its = { { interval_s, 5000 * !!interval_s }, { value_s, 0 } };
	struct timespec now = { 0, 0 };

	if (arm == ABSOLUTE) {
		clock_gettime(clock, &now);
		its.it_value.tv_sec += now.tv_sec;
	}
	MUST(r, arm == DISARMED || syscall(SYS_timer_settime, id, arm == ABSOLUTE ? TIMER_ABSTIME : 0, &its, NULL) == 0);
}

static void itimers_arm(struct res *r)
{
	for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++) {
		struct itimerval v = { { 10 + which, 1000 }, { LONG_S + which * 10 * SLACK_S, 0 } };

		MUST(r, setitimer(which, &v, NULL) == 0);
	}
}

static void *other_run(void *arg)
{
	struct world *w = arg;

	siginfo_t si;

	__atomic_store_n(&w->other_tid, gettid(), __ATOMIC_SEQ_CST);
	for (;;) {
		res_sigwait(42, &si);
		__atomic_store_n(&w->other_got, si.si_value.sival_int, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void make(struct res *r, struct world *w)
{
	sigset_t all;
	pthread_t id;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	MUST(r, pthread_create(&id, NULL, other_run, w) == 0);
	while (!__atomic_load_n(&w->other_tid, __ATOMIC_SEQ_CST))
		sched_yield();
	for (int i = 0; i < TIMERS; i++) {
		const struct spec *s = &specs[i];

		w->ids[i] = timer_new(r, s->clock, s->notify, s->signal, 900 + i, w->other_tid);
		timer_arm(r, w->ids[i], s->clock, s->arm, LONG_S + i * 2 * SLACK_S, s->interval_s);
	}
	for (int i = 0; i < TIMERS; i++)
		if (deleted(i)) {
			MUST(r, syscall(SYS_timer_delete, w->ids[i]) == 0);
			w->ids[i] = -1;
		}
	w->disarmed = timer_new(r, CLOCK_MONOTONIC, SIGEV_SIGNAL, 45, 990, 0);
	w->fast = timer_new(r, CLOCK_MONOTONIC, SIGEV_SIGNAL, 46, 991, 0);
	struct itimerspec often = { { 0, 2000000 }, { 0, 1 } };
	MUST(r, syscall(SYS_timer_settime, w->fast, 0, &often, NULL) == 0);
	itimers_arm(r);
	MUST(r, res_read("/proc/self/timers", w->list_was, sizeof(w->list_was)) > 0);
}

/* `left` is `wanted`, or what remains of it after the time that a test may take. */
static void left_check(struct res *r, const char *what, int number, time_t left_s, time_t wanted_s)
{
	WANT(r, left_s <= wanted_s && left_s > wanted_s - SLACK_S, "%s %d: left: wanted about %ld s, found %ld s", what, number,
	     (long)wanted_s, (long)left_s);
}

/* Armed to fire at once, a timer tells what it was made to tell, to whom it was made to tell. */
static void fire_check(struct res *r, struct world *w, int i)
{
	const struct spec *s = &specs[i];
	const struct timespec patience = { 20, 0 };
	struct itimerspec once = { { 0, 0 }, { 0, 1000000 } };
	siginfo_t si = { 0 };
	sigset_t set;
	int id = w->ids[i];

	sigemptyset(&set);
	sigaddset(&set, s->signal);
	if (s->notify == SIGEV_NONE || s->clock == CLOCK_PROCESS_CPUTIME_ID)
		return;
	syscall(SYS_timer_settime, id, 0, &once, NULL);
	if (s->notify == SIGEV_THREAD_ID) {	/* the other thread takes it */
		for (int tries = 0; tries < 20000 && __atomic_load_n(&w->other_got, __ATOMIC_SEQ_CST) != 900 + i; tries++)
			usleep(1000);
		WANT_EQ(r, w->other_got, 900 + i, "timer %d: value that its thread got", i);
		w->other_got = 0;
	} else {
		int sig = sigtimedwait(&set, &si, &patience);

		WANT_EQ(r, sig, s->signal, "timer %d: fires with", i);
		WANT_EQ(r, si.si_code, SI_TIMER, "timer %d: si_code", i);
		WANT_EQ(r, si.si_value.sival_int, 900 + i, "timer %d: value", i);
	}
	timer_arm(r, id, s->clock, s->arm, LONG_S + i * 2 * SLACK_S, s->interval_s);
}

static void fast_check(struct res *r, struct world *w)
{
	const struct timespec patience = { 20, 0 };
	siginfo_t si;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, 46);
	for (int i = 0; i < 3; i++) {
		WANT_EQ(r, sigtimedwait(&set, &si, &patience), 46, "frequent timer: signal");
		WANT_EQ(r, si.si_code, SI_TIMER, "frequent timer: si_code");
		WANT_EQ(r, si.si_value.sival_int, 991, "frequent timer: value");
	}
	struct itimerspec its;
	syscall(SYS_timer_gettime, w->fast, &its);
	WANT_EQ(r, its.it_interval.tv_nsec, 2000000, "frequent timer: interval in ns");
}

static void check(struct res *r, struct world *w)
{
	struct itimerspec its;

	WANT(r, res_read("/proc/self/timers", w->list_is, sizeof(w->list_is)) > 0, "no /proc/self/timers");
	res_same_text(r, "timer list", w->list_was, w->list_is);
	for (int i = 0; i < TIMERS; i++) {
		const struct spec *s = &specs[i];

		if (deleted(i))
			continue;
		WANT_EQ(r, syscall(SYS_timer_gettime, w->ids[i], &its), 0, "timer %d is there", i);
		WANT_EQ(r, its.it_interval.tv_sec, s->interval_s, "timer %d: interval", i);
		WANT_EQ(r, its.it_interval.tv_nsec, s->interval_s ? 5000 : 0, "timer %d: ns of the interval", i);
		left_check(r, "timer", i, its.it_value.tv_sec, LONG_S + i * 2 * SLACK_S);
		fire_check(r, w, i);
	}
	WANT_EQ(r, syscall(SYS_timer_gettime, w->disarmed, &its), 0, "disarmed timer is there");
	WANT(r, its.it_value.tv_sec == 0 && its.it_value.tv_nsec == 0, "disarmed timer is armed");
	fast_check(r, w);
	for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++) {
		struct itimerval v;

		getitimer(which, &v);
		WANT_EQ(r, v.it_interval.tv_sec, 10 + which, "itimer %d: interval", which);
		WANT_EQ(r, v.it_interval.tv_usec, 1000, "itimer %d: us of the interval", which);
		left_check(r, "itimer", which, v.it_value.tv_sec, LONG_S + which * 10 * SLACK_S);
	}
	itimers_arm(r);
}

int main(int argc, char **argv)
{
	static struct world w;
	struct res r = res_start(argc, argv);

	make(&r, &w);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		check(&r, &w);
		res_done(&r);
	}
}
