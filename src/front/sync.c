/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "front/reach.h"
#include "front/sync.h"
#include "kernel/sys.h"

/*
 * Who is at the other end of a unix socket has a root directory, maybe another one than we: rsync's other half runs there.
 * (A path through /proc/PID/root would not do: rsync follows links by their text, which is "/".)
 */
static int by_root(const struct transport *t, struct sync *s, struct err *err)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(t->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return err_sys(err, "--sync: who receives");
	if (peer.pid == 0)
		return err_set(err, EINVAL, "--sync: who receives is not seen from here");
	s->shell = mem_fmt("--rsh=sh -c 'shift; exec nsenter -t %d -m -r -- \"$@\"' sh", peer.pid);
	s->to = mem_fmt("there:%s/", s->path);
	return 0;
}

static int by_ssh(const char *where, struct sync *s, struct err *err)
{
	const char *ssh = getenv("FERRY_SSH");
	own_free char *host = NULL;
	char *port;
	int r = reach_ssh(where, &host, &port, err);

	if (r < 0)
		return r;
	s->shell = mem_fmt("--rsh=%s%s%s", ssh ? ssh : "ssh", port ? " -p " : "", port ? port : "");
	s->to = mem_fmt("%s:%s/", host, s->path);
	return 0;
}

int sync_begin(const struct options *options, const char *where, const struct transport *t, struct sync *ret, struct err *err)
{
	struct stat st;
	size_t len;

	*ret = (struct sync){ .path = options->sync };
	len = strlen(ret->path);
	if (ret->path[0] != '/' || len < 2 || ret->path[len - 1] == '/')
		return err_set(err, EINVAL, "--sync %s: a directory by its full path, without / at the end", ret->path);
	if (stat(ret->path, &st) < 0)
		return err_sys(err, "--sync %s", ret->path);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, ENOTDIR, "--sync %s is no directory", ret->path);
	if (reach_is_ssh(where))
		return by_ssh(where, ret, err);
	if (strncmp(where, "unix:", 5) == 0)
		return by_root(t, ret, err);
	return err_set(err, EINVAL, "--sync: rsync has no way to %s: bring %s there yourself, or go by ssh or unix:", where, ret->path);
}

static void become_rsync(const struct sync *s)
{
	own_free char *from = mem_fmt("%s/", s->path);
	/* a socket that came along would be in the way of the one that is made */
	const char *argv[] = { "rsync", "--archive", "--hard-links", "--acls", "--xattrs", "--numeric-ids", "--no-specials", "--mkpath",
			       "--timeout=30", "--", from, s->to, NULL, NULL };

	if (s->shell) {
		memmove(&argv[2], &argv[1], (ARRAY_LEN(argv) - 2) * sizeof(*argv));
		argv[1] = s->shell;
	}
	if (dup2(STDERR_FILENO, STDOUT_FILENO) >= 0)
		execvp(argv[0], (char **)(uintptr_t)argv);
	dprintf(STDERR_FILENO, "ferry migrate: rsync: %s\n", strerror(errno));
	_exit(127);
}

/* Who waits for us to go on hears from us meanwhile, and rsync ends when nobody does any more. */
static int wait_for(pid_t pid, const struct migrate_alive *alive, int *ret_status, struct err *err)
{
	own_fd fd = -1;
	int r = sys_pidfd_open(pid, 0, &fd, err), ended = 0;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t each_us = (uint64_t)alive->every_ms * 1000, next_us = clock_us() + each_us;

	while (r == 0 && ended <= 0) {
		uint64_t now_us = clock_us();

		if (now_us >= next_us) {
			r = alive->say(alive->arg, err);
			next_us = now_us + each_us;
		}
		ended = poll(&p, 1, next_us > now_us ? (int)((next_us - now_us) / 1000) + 1 : 0);       /* the reaper's alarm ends it often */
		if (ended < 0 && errno != EINTR)
			r = err_sys(err, "wait for rsync");
	}
	if (r < 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR)
		;
	return r;
}

int sync_run(void *sync, const struct migrate_alive *alive, struct err *err)
{
	struct sync *s = sync;
	int status = 0, r;
	pid_t pid = fork();

	if (pid == 0)
		become_rsync(s);
	if (pid < 0)
		return err_sys(err, "fork");
	r = wait_for(pid, alive, &status, err);
	if (r < 0)
		return r;
	/* files that went away meanwhile */
	if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 24))
		return 0;
	return err_set(err, EREMOTEIO, "--sync %s: rsync ended with status %d", s->path, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

void sync_free(struct sync *s)
{
	free(s->to);
	free(s->shell);
	*s = (struct sync){ 0 };
}
