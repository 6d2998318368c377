/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eventfd, timerfd and signalfd. "strict" adds what CRIU loses: semaphore
 * mode of an eventfd, counts above 32 bits, TFD_TIMER_CANCEL_ON_SET.
 */
#include <linux/kcmp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include "res.h"

#define LONG_S 100000
#define SLACK_S 1000
#define BIG_COUNT 0x123456789abcdef0ull
#define TICKS 5
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)	/* linux/timerfd.h does not go with libc's */

struct timer {
	const char *what;
	clockid_t clock;
	int flags;		/* of timerfd_settime */
	time_t left_s, interval_s;
	int fd;
};

struct world {
	bool strict;
	int count, zero, big, semaphore, full;
	int signals, signals_again;
	int ticked;		/* a timerfd that has expired TICKS times, unread, and is now disarmed by its interval of 0 */
	int cancelable;
	pid_t child;
	char info_was[4096], info_is[4096];
};

static struct timer timers[] = {
	{ "monotonic", CLOCK_MONOTONIC, 0, LONG_S, 0 },
	{ "monotonic, interval", CLOCK_MONOTONIC, 0, LONG_S + 5 * SLACK_S, 77 },
	{ "realtime, absolute", CLOCK_REALTIME, TFD_TIMER_ABSTIME, LONG_S + 10 * SLACK_S, 5 },
	{ "boottime", CLOCK_BOOTTIME, 0, LONG_S + 15 * SLACK_S, 3 },
	{ "boottime, absolute", CLOCK_BOOTTIME, TFD_TIMER_ABSTIME, LONG_S + 20 * SLACK_S, 0 },
	{ "disarmed", CLOCK_MONOTONIC, 0, 0, 0 },
};
#define TIMERS (sizeof(timers) / sizeof(timers[0]))

static uint64_t take(int fd)
{
	uint64_t value = 0;

	return read(fd, &value, 8) == 8 ? value : 0;
}

static int put(int fd, uint64_t value)
{
	return write(fd, &value, 8) == 8 ? 0 : -1;
}

static void eventfds_make(struct res *r, struct world *w)
{
	w->count = eventfd(5, EFD_NONBLOCK | EFD_CLOEXEC);
	w->zero = eventfd(0, EFD_NONBLOCK);
	w->big = eventfd(0, EFD_NONBLOCK);
	w->semaphore = eventfd(3, EFD_NONBLOCK | (w->strict ? EFD_SEMAPHORE : 0));
	w->full = eventfd(0, EFD_NONBLOCK);
	MUST(r, put(w->big, w->strict ? BIG_COUNT : 1 << 30) == 0 && put(w->full, w->strict ? UINT64_MAX - 1 : 1) == 0);
}

static void eventfds_check(struct res *r, struct world *w)
{
	uint64_t count = w->strict ? BIG_COUNT : 1 << 30;

	WANT(r, put(w->full, 1) == (w->strict ? -1 : 0), "full eventfd");
	WANT_EQ(r, take(w->full), w->strict ? UINT64_MAX - 1 : 2, "full eventfd: count");
	WANT_EQ(r, take(w->count), 5, "eventfd: count");
	WANT_EQ(r, take(w->count), 0, "eventfd: count once taken");
	WANT(r, take(w->zero) == 0 && errno == EAGAIN, "empty eventfd: a count, or not O_NONBLOCK");
	WANT_EQ(r, take(w->big), count, "eventfd: large count");
	for (int i = 0; i < 3 && w->strict; i++)
		WANT_EQ(r, take(w->semaphore), 1, "eventfd: semaphore, step %d", i);
	WANT(r, w->strict || take(w->semaphore) == 3, "eventfd: count of 3");
	WANT_EQ(r, take(w->semaphore), 0, "eventfd: once taken");
	put(w->count, 5);
	put(w->big, count);
	put(w->semaphore, 3);
	put(w->full, w->strict ? UINT64_MAX - 1 : 1);
}

static void timer_arm(struct res *r, const struct timer *t)
{
	struct itimerspec its = { { t->interval_s, t->interval_s ? 1000 : 0 }, { t->left_s, 0 } };
	struct timespec now = { 0, 0 };

	if (t->flags & TFD_TIMER_ABSTIME) {
		clock_gettime(t->clock, &now);
		its.it_value.tv_sec += now.tv_sec;
	}
	MUST(r, timerfd_settime(t->fd, t->flags, &its, NULL) == 0);
}

static void timers_make(struct res *r, struct world *w)
{
	for (size_t i = 0; i < TIMERS; i++) {
		timers[i].fd = timerfd_create(timers[i].clock, i & 1 ? TFD_NONBLOCK | TFD_CLOEXEC : TFD_NONBLOCK);
		MUST(r, timers[i].fd >= 0);
		timer_arm(r, &timers[i]);
	}
	uint64_t ticks = TICKS;
	w->ticked = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	struct itimerspec its = { { LONG_S, 0 }, { LONG_S, 0 } };
	MUST(r, timerfd_settime(w->ticked, 0, &its, NULL) == 0 && ioctl(w->ticked, TFD_IOC_SET_TICKS, &ticks) == 0);
	w->cancelable = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
	struct timer c = { "cancelable", CLOCK_REALTIME, TFD_TIMER_ABSTIME | (w->strict ? TFD_TIMER_CANCEL_ON_SET : 0), LONG_S, 0, w->cancelable };
	timer_arm(r, &c);
}

static void timers_check(struct res *r, struct world *w)
{
	struct itimerspec its;
	uint64_t ticks = TICKS;

	for (size_t i = 0; i < TIMERS; i++) {
		const struct timer *t = &timers[i];

		WANT_EQ(r, timerfd_gettime(t->fd, &its), 0, "timerfd, %s: is there", t->what);
		WANT_EQ(r, its.it_interval.tv_sec, t->interval_s, "timerfd, %s: interval", t->what);
		WANT_EQ(r, its.it_interval.tv_nsec, t->interval_s ? 1000 : 0, "timerfd, %s: ns of the interval", t->what);
		WANT(r, its.it_value.tv_sec <= t->left_s && (its.it_value.tv_sec > t->left_s - SLACK_S),
		     "timerfd, %s: left: wanted about %ld s, found %ld s", t->what, (long)t->left_s, (long)its.it_value.tv_sec);
		WANT_EQ(r, take(t->fd), 0, "timerfd, %s: ticks", t->what);
		if (!t->left_s)
			continue;
		its = (struct itimerspec){ { 0, 0 }, { 0, 1000000 } };
		timerfd_settime(t->fd, 0, &its, NULL);
		struct pollfd p = { t->fd, POLLIN, 0 };
		WANT_EQ(r, poll(&p, 1, 20000), 1, "timerfd, %s: fires", t->what);
		WANT_EQ(r, take(t->fd), 1, "timerfd, %s: ticks once fired", t->what);
		timer_arm(r, t);
	}
	WANT_EQ(r, take(w->ticked), TICKS, "timerfd: ticks that were not read");
	ioctl(w->ticked, TFD_IOC_SET_TICKS, &ticks);
}

static void signalfds_make(struct res *r, struct world *w)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 3);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, 64 - 1);
	MUST(r, sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	w->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	sigdelset(&set, SIGHUP);
	w->signals_again = signalfd(-1, &set, SFD_NONBLOCK);
	MUST(r, w->signals >= 0 && w->signals_again >= 0);
}

static void signals_send(struct res *r)
{
	MUST(r, sigqueue(getpid(), SIGRTMIN + 3, (union sigval){ .sival_int = 31 }) == 0);
	MUST(r, sigqueue(getpid(), SIGRTMIN + 3, (union sigval){ .sival_int = 32 }) == 0);
	MUST(r, kill(getpid(), SIGHUP) == 0);
}

static void signalfds_check(struct res *r, struct world *w)
{
	struct signalfd_siginfo si[4] = { 0 };

	WANT_EQ(r, read(w->signals_again, si, sizeof(si[0])), sizeof(si[0]), "signalfd: read of one");
	WANT(r, si[0].ssi_signo == SIGRTMIN + 3 && si[0].ssi_int == 31, "signalfd: wanted %d with 31, found %d with %d", SIGRTMIN + 3, si[0].ssi_signo,
	     si[0].ssi_int);
	WANT_EQ(r, read(w->signals, si, sizeof(si)), 2 * sizeof(si[0]), "signalfd: read of the others");
	WANT(r, si[0].ssi_signo == SIGHUP && si[0].ssi_code == SI_USER && si[0].ssi_pid == getpid(), "signalfd: wanted SIGHUP, found %d", si[0].ssi_signo);
	WANT(r, si[1].ssi_signo == SIGRTMIN + 3 && si[1].ssi_int == 32, "signalfd: second: found %d with %d", si[1].ssi_signo, si[1].ssi_int);
	kill(getpid(), SIGHUP);
	WANT(r, read(w->signals_again, si, sizeof(si)) == -1 && errno == EAGAIN, "signalfd without SIGHUP reads it");
	WANT_EQ(r, read(w->signals, si, sizeof(si)), sizeof(si[0]), "signalfd: read of SIGHUP");
}

static void child_check(struct res *r, void *arg)
{
	struct world *w = arg;
	const int fds[] = { w->count, w->semaphore, timers[1].fd, w->signals };

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		WANT_EQ(r, syscall(SYS_kcmp, getpid(), getppid(), KCMP_FILE, fds[i], fds[i]), 0, "descriptor %d is shared with the parent", fds[i]);
	put(w->zero, 9);
}

/* Flags, masks and clocks as fdinfo has them; not what is left of timers, nor ids of the kernel's own. */
static void see(struct world *w, char *out)
{
	const int fds[] = { w->count, w->zero, w->big, w->semaphore, w->full, w->signals, w->signals_again, w->ticked, w->cancelable,
			    timers[0].fd, timers[1].fd, timers[2].fd, timers[3].fd, timers[4].fd, timers[5].fd };
	static const char *const lines[] = { "flags:", "eventfd-count:", "eventfd-semaphore:", "sigmask:", "clockid:", "ticks:", "settime flags:" };
	char path[64], text[1024];

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fds[i]);
		res_read(path, text, sizeof(text));
		for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
			for (size_t k = 0; k < sizeof(lines) / sizeof(lines[0]); k++)
				if (strncmp(line, lines[k], strlen(lines[k])) == 0 && (w->strict || (strncmp(line, "settime", 7) && !strstr(line, "semaphore"))))
					out += sprintf(out, "%d: %s\n", fds[i], line);
	}
}

int main(int argc, char **argv)
{
	static struct world w;
	struct res r = res_start(argc, argv);

	w.strict = argc > 2 && strcmp(argv[2], "strict") == 0;
	eventfds_make(&r, &w);
	timers_make(&r, &w);
	signalfds_make(&r, &w);
	w.child = fork();
	if (w.child == 0)
		res_serve(&r, child_check, &w);
	signals_send(&r);
	see(&w, w.info_was);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		see(&w, w.info_is);
		res_same_text(&r, "fdinfo", w.info_was, w.info_is);
		eventfds_check(&r, &w);
		timers_check(&r, &w);
		signalfds_check(&r, &w);
		res_ask(&r, w.child);
		WANT_EQ(&r, take(w.zero), 9, "eventfd: count that the child put");
		signals_send(&r);
		see(&w, w.info_was);	/* numbers of a filled eventfd change not, settime flags do */
		res_done(&r);
	}
}
