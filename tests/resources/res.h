/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame of a resource program: a program that sets up one kind of kernel
 * state, says so, and tells after each dump and restore whether all of it is
 * as before.
 *
 *	res_start()	argv[1] is the status file; its directory becomes the working directory
 *	  set-up	MUST() what has to work for the test to mean anything
 *	res_ready()	"ready"
 *	res_next()	sleeps until the tester's SIGUSR1: a new round
 *	  checks	WANT(), WANT_EQ(): "FAIL <round>: ..." lines
 *	res_done()	"ok <round>" or "bad <round>", then res_next() again
 *
 * Other tasks of the program live in res_serve(): a parent asks them with
 * res_ask(), they check and answer with the number of their complaints. The
 * status file is open only while a line is written to it, so that no
 * descriptor of the frame is part of what is tested. The program never ends by
 * itself: the tester kills the tree.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RES_ASK SIGUSR1		/* tester or parent: check now */
#define RES_ANSWER SIGRTMAX	/* checked; the value is the number of complaints */
#define RES_PAGE 4096
#define RES_UNUSED __attribute__((unused))

struct res {
	const char *status_path;
	int round;	/* 0 until the tester first asks */
	int failures;	/* complaints of this round, by any thread */
};

RES_UNUSED __attribute__((format(printf, 2, 3)))
static void res_say(const struct res *r, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	int len = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (len > (int)sizeof(line) - 2)
		len = sizeof(line) - 2;
	line[len++] = '\n';
	int fd = open(r->status_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, line, len) != len)
		_exit(99);
	close(fd);
}

/* A complaint of this round; any thread may make one. */
#define res_fail(r, fmt, ...) do { \
	res_say((r), "FAIL %d: %s:%d: " fmt, (r)->round, __FILE_NAME__, __LINE__, ##__VA_ARGS__); \
	__atomic_add_fetch(&(r)->failures, 1, __ATOMIC_SEQ_CST); \
} while (0)

/* `cond` must hold; the rest says what was wanted and found. */
#define WANT(r, cond, fmt, ...) do { if (!(cond)) res_fail((r), fmt, ##__VA_ARGS__); } while (0)

#define WANT_EQ(r, found, wanted, fmt, ...) do { \
	long long found_ = (long long)(found), wanted_ = (long long)(wanted); \
	if (found_ != wanted_) \
		res_fail((r), fmt ": wanted %lld (%#llx), found %lld (%#llx)", ##__VA_ARGS__, \
			 wanted_, wanted_, found_, found_); \
} while (0)

/* Set-up that can't be done ends the program: the test means nothing then. */
#define MUST(r, cond) do { if (!(cond)) { \
	res_say((r), "FAIL %d: set-up at %s:%d: %s: %s", (r)->round, __FILE_NAME__, __LINE__, #cond, strerror(errno)); \
	_exit(98); } } while (0)

RES_UNUSED static void res_block(struct res *r)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, RES_ASK);
	sigaddset(&set, RES_ANSWER);
	MUST(r, sigprocmask(SIG_BLOCK, &set, NULL) == 0);
}

RES_UNUSED static struct res res_start(int argc, char **argv)
{
	static char dir[512];
	struct res r = { .status_path = argc > 1 ? argv[1] : "/dev/stderr" };

	snprintf(dir, sizeof(dir), "%s", r.status_path);
	MUST(&r, argc < 2 || chdir(dirname(dir)) == 0);
	res_block(&r);
	return r;
}

/* Waits for one of ours; what interrupts the wait is not of interest. */
RES_UNUSED static void res_sigwait(int sig, siginfo_t *ret_info)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	while (sigwaitinfo(&set, ret_info) < 0)
		;
}

RES_UNUSED static void res_ready(struct res *r)
{
	chmod(r->status_path, 0666);
	res_say(r, "ready");
}

RES_UNUSED static void res_next(struct res *r)
{
	siginfo_t si;

	res_sigwait(RES_ASK, &si);
	r->round++;
	r->failures = 0;
}

RES_UNUSED static void res_done(struct res *r)
{
	res_say(r, r->failures ? "bad %d" : "ok %d", r->round);
}

/* The life of a child: checks when asked, answers the asker. Does not return. */
typedef void (*res_check_fn)(struct res *r, void *arg);

RES_UNUSED __attribute__((noreturn))
static void res_serve(struct res *r, res_check_fn check, void *arg)
{
	siginfo_t si;

	for (;;) {
		res_sigwait(RES_ASK, &si);
		r->round = si.si_value.sival_int;
		r->failures = 0;
		check(r, arg);
		MUST(r, sigqueue(si.si_pid, RES_ANSWER, (union sigval){ .sival_int = r->failures }) == 0);
	}
}

/* Has a serving task check; it is also the way to wait until a new one serves. */
RES_UNUSED static void res_ask(struct res *r, pid_t pid)
{
	siginfo_t si;

	if (sigqueue(pid, RES_ASK, (union sigval){ .sival_int = r->round })) {
		res_fail(r, "task %d can't be asked: %s", pid, strerror(errno));
		return;
	}
	do
		res_sigwait(RES_ANSWER, &si);
	while (si.si_pid != pid);
	r->failures += si.si_value.sival_int;
}

/* The 8-byte word that belongs at word `i` of pattern `seed`; never 0. */
RES_UNUSED static uint64_t res_word(uint64_t seed, uint64_t i)
{
	return ((seed * 0x9e3779b97f4a7c15ull) ^ (i * 0xd1342543de82ef95ull)) | 1;
}

RES_UNUSED static void res_fill(void *at, size_t len_bytes, uint64_t seed)
{
	for (size_t i = 0; i < len_bytes / 8; i++)
		((volatile uint64_t *)at)[i] = res_word(seed, i);
}

/* Returns the offset in bytes of the first wrong word, or -1. */
RES_UNUSED static ssize_t res_differs(const void *at, size_t len_bytes, uint64_t seed)
{
	for (size_t i = 0; i < len_bytes / 8; i++)
		if (((const volatile uint64_t *)at)[i] != res_word(seed, i))
			return i * 8;
	return -1;
}

/* A whole /proc file as text, without malloc; returns the length, -1 if it can't be read. */
RES_UNUSED static ssize_t res_read(const char *path, char *buf, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return -1;
	while ((n = read(fd, buf + len, room - 1 - len)) > 0)
		len += n;
	close(fd);
	buf[len] = 0;
	return len;
}

/* Complains about the first line in which two texts differ. */
RES_UNUSED static void res_same_text(struct res *r, const char *what, const char *was, const char *is)
{
	const char *a = was, *b = is;

	while (*a && *a == *b) {
		if (*a == '\n') {
			was = a + 1;
			is = b + 1;
		}
		a++;
		b++;
	}
	WANT(r, *a == *b, "%s: wanted '%.*s', found '%.*s'", what, (int)strcspn(was, "\n"), was, (int)strcspn(is, "\n"), is);
}

/* Until thread `tid` of this task sleeps in system call `nr` (or its continuation, restart_syscall); false after 10 s. */
RES_UNUSED static bool res_sleeps_in(pid_t tid, long nr)
{
	char path[64], text[128];
	struct timespec pause = { 0, 1000000 };

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
	for (int i = 0; i < 10000; i++) {
		if (res_read(path, text, sizeof(text)) > 0 && text[0] >= '0' && text[0] <= '9') {
			long now = strtol(text, NULL, 10);

			if (now == nr || now == SYS_restart_syscall)
				return true;
		}
		nanosleep(&pause, NULL);
	}
	return false;
}
