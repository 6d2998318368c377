/* SPDX-License-Identifier: Apache-2.0 */
/*
 * epoll: targets of many kinds with their events and data, edge triggered and
 * one-shot ones, an epoll in an epoll, one that two tasks share. "twice" adds
 * a file that is watched under two numbers, "dup" a target whose number was
 * closed while a dup of it is open.
 */
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "res.h"

#define DATA(n) (0xdeadbeef00000000ull + (n))
#define ROOM 16

enum target { PIPE, EVENT, PAIR, TIMER, EDGE, ONESHOT, ONESHOT_USED, WRITABLE, INNER, MOVED_FD, CLOSED, TARGETS };

struct world {
	bool dup, twice;
	int epoll, inner, in_inner;
	int fd[TARGETS];	/* what is watched; CLOSED: a dup of what was watched under another number */
	int poke[TARGETS];	/* what makes it ready, -1 none */
	pid_t child;
	char was[4096], is[4096];
};

static void watch(struct res *r, int epoll, int fd, uint32_t events, int n)
{
	MUST(r, epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){ events, { .u64 = DATA(n) } }) == 0);
}

static void poke(struct res *r, int fd)
{
	uint64_t one = 1;

	WANT_EQ(r, write(fd, &one, 8), 8, "write to descriptor %d", fd);
}

static void drain(int fd)
{
	char text[64];

	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	while (read(fd, text, sizeof(text)) > 0)
		;
}

static void pipe_at(struct res *r, struct world *w, enum target t)
{
	int ends[2];

	MUST(r, pipe2(ends, O_NONBLOCK) == 0);
	w->fd[t] = ends[0];
	w->poke[t] = ends[1];
}

static void make(struct res *r, struct world *w)
{
	struct epoll_event ev;
	int pair[2];

	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	w->inner = epoll_create1(0);
	for (int t = 0; t < TARGETS; t++)
		w->fd[t] = w->poke[t] = -1;
	pipe_at(r, w, PIPE);
	pipe_at(r, w, EDGE);
	pipe_at(r, w, ONESHOT);
	pipe_at(r, w, ONESHOT_USED);
	w->fd[EVENT] = w->poke[EVENT] = eventfd(0, EFD_NONBLOCK);
	MUST(r, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	w->fd[PAIR] = pair[0];
	w->poke[PAIR] = pair[1];
	MUST(r, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	w->fd[WRITABLE] = pair[1];	/* nothing is ever sent there: no new edge */
	w->fd[TIMER] = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	w->in_inner = eventfd(0, EFD_NONBLOCK);
	w->fd[MOVED_FD] = w->poke[MOVED_FD] = w->twice ? fcntl(w->fd[EVENT], F_DUPFD, 300) : -1;
	w->fd[INNER] = w->inner;
	w->poke[INNER] = w->in_inner;

	watch(r, w->inner, w->in_inner, EPOLLIN, 100);
	watch(r, w->epoll, w->fd[PIPE], EPOLLIN, PIPE);
	watch(r, w->epoll, w->fd[EVENT], EPOLLIN | EPOLLPRI, EVENT);
	watch(r, w->epoll, w->fd[PAIR], EPOLLIN | EPOLLRDHUP, PAIR);
	watch(r, w->epoll, w->fd[TIMER], EPOLLIN, TIMER);
	watch(r, w->epoll, w->fd[EDGE], EPOLLIN | EPOLLET, EDGE);
	watch(r, w->epoll, w->fd[ONESHOT], EPOLLIN | EPOLLONESHOT, ONESHOT);
	watch(r, w->epoll, w->fd[ONESHOT_USED], EPOLLIN | EPOLLONESHOT, ONESHOT_USED);
	watch(r, w->epoll, w->fd[WRITABLE], EPOLLOUT | EPOLLET, WRITABLE);
	watch(r, w->epoll, w->fd[INNER], EPOLLIN, INNER);
	if (w->twice)
		watch(r, w->epoll, w->fd[MOVED_FD], EPOLLIN, MOVED_FD);
	if (w->dup) {
		int number = eventfd(0, EFD_NONBLOCK);

		watch(r, w->epoll, number, EPOLLIN, CLOSED);
		w->fd[CLOSED] = w->poke[CLOSED] = fcntl(number, F_DUPFD, 310);
		close(number);
	}
	/* what is left over now: the one-shot and the edge of the writable end are used up */
	poke(r, w->poke[ONESHOT_USED]);
	MUST(r, epoll_wait(w->epoll, &ev, 1, 0) == 1 && epoll_wait(w->epoll, &ev, 1, 0) == 1 && epoll_wait(w->epoll, &ev, 1, 0) == 0);
	drain(w->fd[ONESHOT_USED]);
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Targets of both as fdinfo has them, sorted, without inode numbers. */
static void see(struct world *w, char *out)
{
	const int epolls[] = { w->epoll, w->inner };
	char path[64], text[4096], *lines[ROOM];

	for (int e = 0; e < 2; e++) {
		int n = 0;

		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", epolls[e]);
		res_read(path, text, sizeof(text));
		for (char *line = strtok(text, "\n"); line && n < ROOM; line = strtok(NULL, "\n"))
			if (strncmp(line, "tfd:", 4) == 0 || strncmp(line, "flags:", 6) == 0) {
				char *rest = strstr(line, " pos:");

				if (rest)
					*rest = 0;
				lines[n++] = line;
			}
		qsort(lines, n, sizeof(lines[0]), compare);
		for (int i = 0; i < n; i++) {
			char *used = strstr(lines[i], "events: 40000000");

			if (used)	/* a used up one-shot: no system call adds one without EPOLLERR and EPOLLHUP */
				memcpy(used, "events: 40000018", 16);
			out += sprintf(out, "%d: %s\n", epolls[e], lines[i]);
		}
	}
}

/* After a poke of `t` just `wanted` targets are ready; bits by target. */
static void ready_check(struct res *r, struct world *w, const char *what, uint32_t wanted)
{
	struct epoll_event ev[ROOM];
	uint32_t found = 0;
	int n = epoll_wait(w->epoll, ev, ROOM, 0);

	for (int i = 0; i < n; i++) {
		WANT(r, ev[i].data.u64 >= DATA(0) && ev[i].data.u64 < DATA(TARGETS), "%s: data %#lx", what, ev[i].data.u64);
		found |= 1u << (ev[i].data.u64 - DATA(0));
	}
	WANT_EQ(r, found, wanted, "%s: ready targets", what);
}

static void target_check(struct res *r, struct world *w, enum target t)
{
	uint32_t wanted = 1u << t;
	char what[32];

	sprintf(what, "target %d", t);
	if (w->twice && (t == EVENT || t == MOVED_FD))	/* one eventfd under two numbers */
		wanted = 1u << EVENT | 1u << MOVED_FD;
	if (t == ONESHOT_USED)
		wanted = 0;
	poke(r, w->poke[t]);
	ready_check(r, w, what, wanted);
	ready_check(r, w, "once more", t == EDGE || t == ONESHOT ? 0 : wanted);
	drain(t == INNER ? w->in_inner : w->fd[t]);
	if (t == ONESHOT)
		epoll_ctl(w->epoll, EPOLL_CTL_MOD, w->fd[t], &(struct epoll_event){ EPOLLIN | EPOLLONESHOT, { .u64 = DATA(t) } });
}

static void timer_check(struct res *r, struct world *w)
{
	struct itimerspec soon = { { 0, 0 }, { 0, 1 } };
	struct epoll_event ev;

	timerfd_settime(w->fd[TIMER], 0, &soon, NULL);
	WANT_EQ(r, epoll_wait(w->epoll, &ev, 1, 20000), 1, "timer in an epoll");
	WANT_EQ(r, ev.data.u64, DATA(TIMER), "timer in an epoll: data");
	drain(w->fd[TIMER]);
}

static void child_check(struct res *r, void *arg)
{
	struct world *w = arg;

	WANT_EQ(r, syscall(SYS_kcmp, getpid(), getppid(), KCMP_FILE, w->epoll, w->epoll), 0, "epoll is shared with the parent");
	poke(r, w->poke[PIPE]);
	ready_check(r, w, "in the child", 1u << PIPE);
	drain(w->fd[PIPE]);
}

static void check(struct res *r, struct world *w)
{
	see(w, w->is);
	res_same_text(r, "epoll", w->was, w->is);
	/* an edge may be told of again by an epoll that was made anew; a level that is not there may not */
	struct epoll_event ev[ROOM];
	int n = epoll_wait(w->epoll, ev, ROOM, 0);
	WANT(r, n == 0 || (n == 1 && ev[0].data.u64 == DATA(WRITABLE)), "ready before anything came: %d targets, first data %#lx", n, ev[0].data.u64);
	for (int t = 0; t < TARGETS; t++)
		if (t == TIMER)
			timer_check(r, w);
		else if (w->poke[t] >= 0)
			target_check(r, w, t);
	res_ask(r, w->child);
	close(w->fd[CLOSED]);
	if (w->dup && r->round == 1) {	/* with its last number the target goes away */
		w->fd[CLOSED] = w->poke[CLOSED] = -1;
		see(w, w->is);
		WANT(r, !strstr(w->is, "deadbeef0000000a"), "closed target is still watched");
		see(w, w->was);
	}
}

int main(int argc, char **argv)
{
	static struct world w;
	struct res r = res_start(argc, argv);

	w.twice = argc > 2 && strcmp(argv[2], "twice") == 0;
	w.dup = argc > 2 && strcmp(argv[2], "dup") == 0;
	make(&r, &w);
	w.child = fork();
	if (w.child == 0) {
		close(w.fd[CLOSED]);
		res_serve(&r, child_check, &w);
	}
	see(&w, w.was);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		check(&r, &w);
		res_done(&r);
	}
}
