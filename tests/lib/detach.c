/* SPDX-License-Identifier: Apache-2.0 */
/*
 * detach [-i IN] [-o OUT] [-d DIR] [-u UID] PROGRAM ARGS...: starts a program
 * in a session of its own, orphaned to init, with no descriptor but 0 to 2:
 * 0 from IN, 1 and 2 to OUT (added to), each /dev/null where not given. DIR
 * becomes its working directory, UID its user and group. Its pid is printed.
 * Exit status 0 when the program was started, 1 with a word on stderr if not.
 *
 *	detach -- prints the pid
 *	  (between) -- ends at once
 *	    PROGRAM -- begins when init is its parent, and sees no other
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct plan {
	const char *in, *out, *dir;
	int uid;	/* -1: stay */
	char **argv;
};

__attribute__((noreturn)) static void die(const char *what)
{
	fprintf(stderr, "detach: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static int open_and_place(const char *path, int flags, int at)
{
	int fd = open(path, flags, 0644);

	if (fd < 0 || dup2(fd, at) < 0)
		return -1;
	return close(fd);
}

/* Returns only when something failed, errno says what. */
static void become(const struct plan *p, pid_t between)
{
	while (getppid() == between)
		sched_yield();
	setsid();
	if (open_and_place(p->in, O_RDONLY, 0) < 0 || open_and_place(p->out, O_WRONLY | O_CREAT | O_APPEND, 1) < 0 ||
	    dup2(1, 2) < 0 || (p->dir && chdir(p->dir) < 0))
		return;
	if (p->uid >= 0 && (setgroups(0, NULL) < 0 || setgid(p->uid) < 0 || setuid(p->uid) < 0))
		return;
	if (close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		return;
	execvp(p->argv[0], p->argv);
}

__attribute__((noreturn)) static void tell(int to, int word)
{
	_exit(write(to, &word, sizeof(word)) < 0);
}

/* Words are a pid, or an errno below 0. */
__attribute__((noreturn)) static void start(const struct plan *p, int to)
{
	pid_t between = getpid(), pid = fork();

	if (pid == 0)
		become(p, between);
	tell(to, pid > 0 ? pid : -errno);
}

int main(int argc, char **argv)
{
	struct plan p = { .in = "/dev/null", .out = "/dev/null", .uid = -1 };
	int opt, report[2], word, pid = 0;

	while ((opt = getopt(argc, argv, "+i:o:d:u:")) != -1)
		switch (opt) {
		case 'i': p.in = optarg; break;
		case 'o': p.out = optarg; break;
		case 'd': p.dir = optarg; break;
		case 'u': p.uid = atoi(optarg); break;
		default: return 1;
		}
	p.argv = argv + optind;
	if (!p.argv[0] || pipe2(report, O_CLOEXEC) < 0)
		die("nothing to start");
	switch (fork()) {
	case -1: die("fork");
	case 0: start(&p, report[1]);
	}
	close(report[1]);
	while (read(report[0], &word, sizeof(word)) == sizeof(word)) {
		if (word < 0) {
			errno = -word;
			die(p.argv[0]);
		}
		pid = word;
	}
	printf("%d\n", pid);
	return pid == 0;
}
