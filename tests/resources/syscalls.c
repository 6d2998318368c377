/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads asleep in system calls. Nobody may notice the dump: each call goes
 * on, and returns what it was to return when what it waits for comes. Without
 * an argument: calls that the kernel itself restarts; "timed": those that it
 * would go on with by a restart block; "eintr": those that the kernel lets
 * return EINTR after a ptrace stop, unless the tool does them again.
 */
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "res.h"

#define HOUR_S 3600
#define HOUR_MS (HOUR_S * 1000)

struct sleeper;
struct call {
	const char *name;
	long nr;
	long (*wait)(struct sleeper *s);
	void (*wake)(struct sleeper *s);	/* NULL: it sleeps for ever, and is only looked at */
	int (*make)(struct sleeper *s);
	void (*between)(struct sleeper *s);
	long wanted;
};

struct sleeper {
	const struct call *call;
	struct res *r;
	int fd[2];		/* what is waited on, what wakes */
	int extra;
	pid_t child;
	uint32_t word;
	pid_t tid;
	long rounds;		/* returns so far */
	long ret;
	int error;
};

/* Every way to wait: returns what the call returned. */
static long in_nanosleep(struct sleeper *s) { (void)s; return syscall(SYS_nanosleep, &(struct timespec){ HOUR_S, 0 }, NULL); }
static long in_read(struct sleeper *s) { char c; return read(s->fd[0], &c, 1); }
static long in_recv(struct sleeper *s) { char c; return recv(s->fd[0], &c, 1, 0); }
static long in_accept(struct sleeper *s) { int fd = accept4(s->fd[0], NULL, NULL, SOCK_CLOEXEC); return fd < 0 ? -1 : close(fd); }
static long in_wait4(struct sleeper *s) { return waitpid(s->child, NULL, 0) == s->child ? 0 : -1; }
static long in_poll(struct sleeper *s, int ms) { return poll(&(struct pollfd){ s->fd[0], POLLIN, 0 }, 1, ms); }
static long in_poll_ever(struct sleeper *s) { return in_poll(s, -1); }
static long in_poll_timed(struct sleeper *s) { return in_poll(s, HOUR_MS); }
static long in_epoll_ever(struct sleeper *s) { struct epoll_event ev; return epoll_wait(s->fd[0], &ev, 1, -1); }
static long in_epoll_timed(struct sleeper *s) { struct epoll_event ev; return epoll_wait(s->fd[0], &ev, 1, HOUR_MS); }

static long in_clock_nanosleep(struct sleeper *s)
{
	struct timespec at;

	(void)s;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += HOUR_S;
	return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

/* Short sleeps, one after another: none ends early or with EINTR. */
static long in_short_sleeps(struct sleeper *s)
{
	const struct timespec nap = { 0, 700000000 };
	struct timespec a, b;

	for (long ret = 0;; s->word++) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		ret = nanosleep(&nap, NULL);
		clock_gettime(CLOCK_MONOTONIC, &b);
		if (ret || (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec < nap.tv_nsec)
			return ret ? ret : -2;
	}
}

static long in_ppoll(struct sleeper *s)
{
	struct timespec hour = { HOUR_S, 0 };
	sigset_t none;

	sigemptyset(&none);
	sigaddset(&none, RES_ASK);
	return ppoll(&(struct pollfd){ s->fd[0], POLLIN, 0 }, 1, &hour, &none);
}

static long in_select(struct sleeper *s)
{
	struct timeval hour = { HOUR_S, 0 };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(s->fd[0], &set);
	return select(s->fd[0] + 1, &set, NULL, NULL, &hour);
}

static long futex(uint32_t *word, int op, uint32_t value, const struct timespec *time)
{
	return syscall(SYS_futex, word, op, value, time, NULL, FUTEX_BITSET_MATCH_ANY);
}

static long in_futex_ever(struct sleeper *s) { return futex(&s->word, FUTEX_WAIT, s->word, NULL); }
static long in_futex_timed(struct sleeper *s) { return futex(&s->word, FUTEX_WAIT, s->word, &(struct timespec){ HOUR_S, 0 }); }

static long in_futex_absolute(struct sleeper *s)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += HOUR_S;
	return futex(&s->word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, s->word, &at);
}

/* Returns -1 with EINTR when its own signal is handled, as it has to; the handler counts. */
static volatile int handled;
static void count(int sig) { (void)sig; handled++; }

static long in_sigsuspend(struct sleeper *s)
{
	sigset_t mask;
	int before = handled;

	(void)s;
	sigfillset(&mask);
	sigdelset(&mask, SIGUSR2);
	long ret = sigsuspend(&mask);
	return ret == -1 && errno == EINTR && handled == before + 1 ? 0 : -2;
}

static long in_write_full(struct sleeper *s)
{
	static const char page[RES_PAGE];

	return write(s->fd[1], page, RES_PAGE);
}

static long in_sigtimedwait(struct sleeper *s)
{
	sigset_t set;

	(void)s;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	return sigtimedwait(&set, NULL, &(struct timespec){ HOUR_S, 0 });
}

static long in_recv_timed(struct sleeper *s)
{
	struct timeval hour = { HOUR_S, 0 };

	setsockopt(s->fd[0], SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof(hour));
	return in_recv(s);
}

static void wake_write(struct sleeper *s) { WANT_EQ(s->r, write(s->fd[1], "x", 1), 1, "%s: wake", s->call->name); }
static void wake_signal(struct sleeper *s) { syscall(SYS_tgkill, getpid(), s->tid, SIGUSR2); }
static void wake_child(struct sleeper *s) { kill(s->child, SIGKILL); }

static void wake_futex(struct sleeper *s)
{
	bool private = s->call->wait == in_futex_absolute;

	__atomic_add_fetch(&s->word, 1, __ATOMIC_SEQ_CST);
	WANT_EQ(s->r, futex(&s->word, FUTEX_WAKE | (private ? FUTEX_PRIVATE_FLAG : 0), INT_MAX, NULL), 1, "%s: threads woken", s->call->name);
}

static void wake_connect(struct sleeper *s)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);

	getsockname(s->fd[0], (struct sockaddr *)&addr, &len);
	int fd = socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	WANT_EQ(s->r, connect(fd, (struct sockaddr *)&addr, len), 0, "%s: connect", s->call->name);
	close(fd);
}

static void wake_drain(struct sleeper *s)
{
	char page[RES_PAGE];

	WANT_EQ(s->r, read(s->fd[0], page, RES_PAGE), RES_PAGE, "%s: drain", s->call->name);
}

/* What each waits on. */
static int make_none(struct sleeper *s) { (void)s; return 0; }
static int make_pipe(struct sleeper *s) { return pipe2(s->fd, O_CLOEXEC); }
static int make_pair(struct sleeper *s) { return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->fd); }

static int make_listener(struct sleeper *s)
{
	struct sockaddr name = { .sa_family = AF_UNIX };

	s->fd[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return bind(s->fd[0], &name, sizeof(name.sa_family)) || listen(s->fd[0], 1) ? -1 : 0;	/* the kernel picks a name */
}

static int make_epoll(struct sleeper *s)
{
	int data[2];

	if (pipe2(data, O_CLOEXEC))
		return -1;
	s->fd[0] = epoll_create1(EPOLL_CLOEXEC);
	s->fd[1] = data[1];
	s->extra = data[0];
	return epoll_ctl(s->fd[0], EPOLL_CTL_ADD, data[0], &(struct epoll_event){ .events = EPOLLIN });
}

static int make_full(struct sleeper *s)
{
	static const char page[RES_PAGE];

	if (pipe2(s->fd, O_CLOEXEC | O_NONBLOCK))
		return -1;
	while (write(s->fd[1], page, RES_PAGE) == RES_PAGE)
		;
	return fcntl(s->fd[1], F_SETFL, 0);
}

/* Between two waits: what was only looked at is taken, a dead child is replaced. */
static void drain(struct sleeper *s)
{
	char c;

	WANT_EQ(s->r, read(s->extra >= 0 ? s->extra : s->fd[0], &c, 1), 1, "%s: drain", s->call->name);
}

static void breed(struct sleeper *s)
{
	s->child = fork();
	if (s->child == 0)
		for (;;)
			pause();
}

#define SETS 3
static const char *const set_names[SETS] = { "", "timed", "eintr" };
static const struct call calls[SETS][16] = {
	{
		{ "clock_nanosleep, absolute", SYS_clock_nanosleep, in_clock_nanosleep, NULL, make_none },
		{ "read from a pipe", SYS_read, in_read, wake_write, make_pipe, NULL, 1 },
		{ "recv", SYS_recvfrom, in_recv, wake_write, make_pair, NULL, 1 },
		{ "accept", SYS_accept4, in_accept, wake_connect, make_listener, NULL, 0 },
		{ "wait4", SYS_wait4, in_wait4, wake_child, make_none, breed, 0 },
		{ "ppoll", SYS_ppoll, in_ppoll, wake_write, make_pipe, drain, 1 },
		{ "select", SYS_pselect6, in_select, wake_write, make_pipe, drain, 1 },
		{ "futex", SYS_futex, in_futex_ever, wake_futex, make_none, NULL, 0 },
		{ "sigsuspend", SYS_rt_sigsuspend, in_sigsuspend, wake_signal, make_none, NULL, 0 },
		{ "write to a full pipe", SYS_write, in_write_full, wake_drain, make_full, NULL, RES_PAGE },
	}, {
		{ "nanosleep", SYS_nanosleep, in_nanosleep, NULL, make_none },
		{ "short nanosleeps", SYS_clock_nanosleep, in_short_sleeps, NULL, make_none },
		{ "poll", SYS_poll, in_poll_ever, wake_write, make_pipe, drain, 1 },
		{ "poll, timed", SYS_poll, in_poll_timed, wake_write, make_pipe, drain, 1 },
		{ "futex, timed", SYS_futex, in_futex_timed, wake_futex, make_none, NULL, 0 },
		{ "futex, absolute", SYS_futex, in_futex_absolute, wake_futex, make_none, NULL, 0 },
	}, {
		{ "epoll_wait", SYS_epoll_wait, in_epoll_ever, wake_write, make_epoll, drain, 1 },
		{ "epoll_wait, timed", SYS_epoll_wait, in_epoll_timed, wake_write, make_epoll, drain, 1 },
		{ "sigtimedwait", SYS_rt_sigtimedwait, in_sigtimedwait, wake_signal, make_none, NULL, SIGUSR2 },
		{ "recv, timed", SYS_recvfrom, in_recv_timed, wake_write, make_pair, NULL, 1 },
	},
};

static void *sleeper_run(void *arg)
{
	struct sleeper *s = arg;

	for (;;) {
		if (s->call->between == breed || (s->call->between && s->rounds && s->ret == s->call->wanted))
			s->call->between(s);
		__atomic_store_n(&s->tid, gettid(), __ATOMIC_SEQ_CST);
		s->ret = s->call->wait(s);
		s->error = errno;
		__atomic_add_fetch(&s->rounds, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void sleeper_start(struct res *r, struct sleeper *s, const struct call *call)
{
	pthread_t id;

	*s = (struct sleeper){ .call = call, .r = r, .extra = -1 };
	MUST(r, call->make(s) == 0);
	MUST(r, pthread_create(&id, NULL, sleeper_run, s) == 0);
	while (!__atomic_load_n(&s->tid, __ATOMIC_SEQ_CST))
		usleep(100);
	MUST(r, res_sleeps_in(s->tid, call->nr));
}

static void sleeper_check(struct res *r, struct sleeper *s)
{
	const char *name = s->call->name;
	long before = s->call->wake ? r->round - 1 : 0;

	if (__atomic_load_n(&s->rounds, __ATOMIC_SEQ_CST) != before) {
		res_fail(r, "%s: returned %ld (%s) though nothing came", name, s->ret, s->ret < 0 ? strerror(s->error) : "no error");
		__atomic_store_n(&s->rounds, s->call->wake ? r->round : 0, __ATOMIC_SEQ_CST);
		return;
	}
	WANT(r, res_sleeps_in(s->tid, s->call->nr), "%s: does not sleep", name);
	if (!s->call->wake)
		return;
	s->call->wake(s);
	for (int i = 0; i < 20000 && __atomic_load_n(&s->rounds, __ATOMIC_SEQ_CST) == before; i++)
		usleep(1000);
	WANT_EQ(r, __atomic_load_n(&s->rounds, __ATOMIC_SEQ_CST), before + 1, "%s: returns after the wake", name);
	WANT(r, s->ret == s->call->wanted, "%s: wanted %ld, returned %ld (%s)", name, s->call->wanted, s->ret, strerror(s->error));
	WANT(r, res_sleeps_in(s->tid, s->call->nr), "%s: does not sleep again", name);
}

int main(int argc, char **argv)
{
	static struct sleeper sleepers[16];
	struct res r = res_start(argc, argv);
	sigset_t usr2;
	int set = 0, n = 0;

	while (set < SETS - 1 && strcmp(set_names[set], argc > 2 ? argv[2] : ""))
		set++;
	signal(SIGUSR2, count);
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	sigprocmask(SIG_BLOCK, &usr2, NULL);
	for (; calls[set][n].name; n++)
		sleeper_start(&r, &sleepers[n], &calls[set][n]);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		for (int i = 0; i < n; i++)
			sleeper_check(&r, &sleepers[i]);
		res_done(&r);
	}
}
