/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/probe_doors.h"
#include "kernel/ptrace.h"

/* Our child shall not outlive us; if we are gone already, it goes too. */
static void die_with(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(ESRCH);
}

static int wait_for(pid_t pid, int *ret_status)
{
	pid_t r;

	do {
		r = waitpid(pid, ret_status, __WALL);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

int probe_in_child(int (*door)(void), const char *what, struct err *err)
{
	pid_t me = getpid(), pid = fork();
	int r, status;

	if (pid < 0)
		return err_sys(err, "fork");
	if (pid == 0) {
		die_with(me);
		_exit(-door());
	}
	r = wait_for(pid, &status);
	if (r < 0)
		return err_set(err, -r, "%s: no answer: %s", what, strerror(-r));
	if (!WIFEXITED(status))
		return err_set(err, EIO, "%s: the probe died of signal %d", what, WTERMSIG(status));
	if (WEXITSTATUS(status))
		return err_set(err, WEXITSTATUS(status), "%s: %s", what, strerror(WEXITSTATUS(status)));
	return 0;
}

static void tracee(pid_t parent, int ready_fd, int (*prepare)(void))
{
	unsigned char failed;

	die_with(parent);
	failed = prepare ? (unsigned char)-prepare() : 0;
	if (write(ready_fd, &failed, 1) == 1)
		for (;;)
			pause();
	_exit(1);
}

static int stop_and_try(pid_t pid, int (*door)(pid_t, struct err *), struct err *err)
{
	struct ptrace_stop stop;
	int r = ptrace_seize(pid, PTRACE_O_EXITKILL, err);

	if (r == 0)
		r = ptrace_interrupt(pid, err);
	if (r == 0)
		r = ptrace_wait(pid, &stop, NULL, err);
	return r < 0 ? r : door(pid, err);
}

int probe_tracee(int (*prepare)(void), int (*door)(pid_t pid, struct err *err), struct err *err)
{
	own_fd read_end = -1, write_end = -1;
	unsigned char failed;
	pid_t me = getpid(), pid;
	int p[2], r;

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	read_end = p[0];
	write_end = p[1];
	pid = fork();
	if (pid < 0)
		return err_sys(err, "fork");
	if (pid == 0)
		tracee(me, write_end, prepare);
	own_fd_drop(&write_end);
	write_end = -1;
	if (read(read_end, &failed, 1) != 1)
		r = err_set(err, EIO, "the child to try on died");
	else if (failed)
		r = err_set(err, failed, "prepare the child to try on: %s", strerror(failed));
	else
		r = stop_and_try(pid, door, err);
	kill(pid, SIGKILL);
	wait_for(pid, &p[0]);
	return r;
}
