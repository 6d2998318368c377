/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/own.h"
#include "engine/arm.h"
#include "inject/question.h"
#include "kernel/proc_task.h"
#include "kernel/uffd.h"

/* What every task may have; enough, for the kernel resolves the faults by itself, its own as well. */
#define USER_MODE_ONLY 1

#define LET_GO_MIN (16ull << 20)        /* keeps all faults waiting: 0.3 ms */
#define LET_GO_MAX (128ull << 20)       /* where there is little in it */
#define LET_GO_US  100u                 /* is little */

/* A filter may end a task for a call that the program itself never makes. */
static int choose_signal(const struct frozen_task *t, struct gadgets *g, struct err *err)
{
	struct proc_status status;
	int r = proc_status(t->pid, 0, &status, err);

	if (r < 0)
		return r;
	proc_status_free(&status);
	if (status.seccomp != 0)
		return err_set(err, EOPNOTSUPP, "it has a seccomp filter");
	if (!t->stop_signal)            /* one that job control holds is asked by single calls */
		g->signal = gadgets_choose_signal(g, status.sig_cgt, status.sig_pnd | status.shd_pnd);
	return 0;
}

static int ask(struct subject *s, const struct gadgets *g, const struct proc_maps *maps, enum arm_for what, int *ret_uffd,
	       struct err *err)
{
	const uint64_t flags = O_CLOEXEC | O_NONBLOCK;
	int r = subject_open(s, g, maps, s, 1, err), closed;

	if (r < 0)
		return r;
	r = question_take_fd(s, SYS_userfaultfd, what == ARM_TRACK ? flags | USER_MODE_ONLY : flags, ret_uffd, err);
	if (r == -EPERM && what == ARM_WAIT)    /* writes of system calls would fail in a protected page, with EFAULT */
		r = err_set(err, EOPNOTSUPP, "it may not have a userfaultfd for what system calls write "
			    "(it lacks CAP_SYS_PTRACE, and vm.unprivileged_userfaultfd is 0)");
	closed = subject_close(s, r < 0 ? &(struct err){ 0 } : err);
	return r < 0 ? r : closed;
}

int arm_task(const struct frozen_task *t, const struct proc_maps *maps, enum arm_for what, int *ret_uffd, struct err *err)
{
	struct subject s = { 0 };
	struct gadgets g;
	own_fd uffd = -1;
	int r = gadgets_find(t->pid, maps, &g, err);

	if (r == 0)
		r = choose_signal(t, &g, err);
	if (r == 0)
		r = subject_see(t->pid, &s, err);
	if (r == 0)
		r = ask(&s, &g, maps, what, &uffd, err);
	subject_free(&s);
	if (r == 0)
		r = uffd_enable(uffd, what == ARM_TRACK ? UFFD_WP_UNPOPULATED | UFFD_WP_ASYNC :
							  UFFD_WP | UFFD_WAIT_REMAP, err);
	if (r < 0)
		return r;
	*ret_uffd = TAKE_FD(uffd);
	return 0;
}

static void let_go(int uffd, taddr start, taddr end)
{
	uint64_t step = LET_GO_MIN;

	for (taddr to; start < end; start = to) {
		uint64_t from_us = clock_us();

		to = end - start > step ? start + step : end;
		uffd_unregister(uffd, start, to - start, &(struct err){ 0 });
		step = clock_us() - from_us > LET_GO_US ? LET_GO_MIN : step * 2 < LET_GO_MAX ? step * 2 : LET_GO_MAX;
	}
}

void disarm_task(pid_t pid, int uffd)
{
	struct proc_maps maps = { 0 };

	if (proc_maps(pid, &maps, &(struct err){ 0 }) < 0)
		return;
	for (size_t i = 0; i < maps.len; i++)
		if (!maps.at[i].shared && maps.at[i].ino == 0)
			let_go(uffd, maps.at[i].start, maps.at[i].end);
	proc_maps_free(&maps);
}
