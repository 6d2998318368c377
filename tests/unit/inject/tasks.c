/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/own.h"
#include "inject/vessel.h"
#include "kernel/proc.h"
#include "kernel/proc_task.h"

#define PATIENCE_US 20000000u

static bool put_text(const char *path, const char *text)
{
	own_fd fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* Root in a user namespace of its own, where this is no root. */
static bool enter(void)
{
	const int flags = CLONE_NEWPID | CLONE_NEWNS;
	char map[40];
	uid_t uid = geteuid();

	if (uid == 0)
		return unshare(flags) == 0;
	snprintf(map, sizeof(map), "0 %u 1", uid);
	return unshare(flags | CLONE_NEWUSER) == 0 && put_text("/proc/self/setgroups", "deny") &&
	       put_text("/proc/self/uid_map", map);
}

static int exit_status(pid_t pid)
{
	int status;

	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int run_inside(int (*run)(void))
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("proc", "/proc", "proc", 0, NULL) < 0) {
		print_message("/proc can't be mounted here: skipped\n");
		return TEST_SKIPPED;
	}
	return run();
}

/* Leaves by _exit(): a leak checker can work neither in there, nor where no more process can be made since it ended. */
int in_pid_namespace(int (*run)(void))
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid != 0)
		return exit_status(pid);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!enter()) {
		print_message("no pid namespace may be made here: skipped\n");
		fflush(NULL);
		_exit(TEST_SKIPPED);
	}
	pid = fork();
	status = pid == 0 ? run_inside(run) : exit_status(pid);
	fflush(NULL);
	_exit(status);
}

pid_t task_fork(void (*body)(void *arg), void *arg)
{
	pid_t parent = getpid(), pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			body(arg);
		_exit(1);
	}
	assert_true(pid > 0);
	return pid;
}

pid_t task_exec(const char *const argv[], int *ret_input_fd)
{
	int in[2], out[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(in[0], 0);
		dup2(out[1], 1);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	if (read(out[0], &byte, 1) != 1) {
		close(in[1]);
		task_end(pid);
		pid = -1;
	}
	close(out[0]);
	*ret_input_fd = in[1];
	return pid;
}

void task_end(pid_t pid)
{
	vessel_kill(pid);       /* its threads may still be held */
}

void *task_board(size_t len_bytes)
{
	void *at = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(at, MAP_FAILED);
	return at;
}

static bool in_call(pid_t tid, long nr)
{
	char text[1000], state;
	struct err err;
	long now = -1;

	OK(&err, proc_read(tid, "syscall", text, sizeof(text), &err));
	sscanf(text, "%ld", &now);
	OK(&err, proc_read(tid, "stat", text, sizeof(text), &err));
	state = strrchr(text, ')')[2];
	return now == nr && state == 'S';
}

void until_in_call(pid_t tid, long nr)
{
	uint64_t end = clock_us() + PATIENCE_US;

	while (!in_call(tid, nr)) {
		if (clock_us() > end)
			fail_msg("thread %d does not come to wait in call %ld", tid, nr);
		sched_yield();
	}
}

void until_state(pid_t tid, char state)
{
	uint64_t end = clock_us() + PATIENCE_US;
	char text[1000];
	struct err err;

	do {
		OK(&err, proc_read(tid, "stat", text, sizeof(text), &err));
		if (clock_us() > end)
			fail_msg("thread %d is not %c: %s", tid, state, text);
		sched_yield();
	} while (strrchr(text, ')')[2] != state);
}

void until_more(atomic_ulong *counter, unsigned long than)
{
	uint64_t end = clock_us() + PATIENCE_US;

	while (atomic_load(counter) <= than) {
		if (clock_us() > end)
			fail_msg("a counter stays at %lu", atomic_load(counter));
		sched_yield();
	}
}
