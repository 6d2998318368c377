/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "resource/file/aside.h"

#define STACK_BYTES (512u << 10)

struct work { int (*run)(void *arg); void *arg; int result; };

static int enter(void *data)
{
	struct work *work = data;

	(void)setsid();         /* signals for ferry's group are not for this one */
	work->result = work->run(work->arg);
	return 0;
}

int aside(int (*run)(void *arg), void *arg, struct err *err)
{
	own_free char *stack = mem_new(STACK_BYTES);
	struct work work = { run, arg, INT_MIN };
	pid_t pid = clone(enter, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | CLONE_FILES, &work);

	if (pid < 0)
		return err_sys(err, "clone");
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	return work.result != INT_MIN ? work.result : err_set(err, ECHILD, "the child that works aside was killed");
}

/* A mount that no namespace has: nobody else sees it, and nothing is left when its last user is gone. */
int aside_empty_root(struct err *err)
{
	own_fd fs = fsopen("tmpfs", FSOPEN_CLOEXEC), mount_fd = -1;

	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return err_sys(err, "make a tmpfs");
	mount_fd = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (mount_fd < 0 || fchdir(mount_fd) < 0 || chroot(".") < 0)
		return err_sys(err, "enter a tmpfs");
	return 0;
}
