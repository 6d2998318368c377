/* SPDX-License-Identifier: Apache-2.0 */
/* resume.c - a tree that dump left stopped runs on, or ends. */
#include <errno.h>
#include <signal.h>

#include "base/log.h"
#include "engine/dump.h"
#include "kernel/proc_task.h"

static int collect(pid_t pid, struct proc_ids *pids, struct err *err)
{
	struct proc_ids children = { 0 };
	int r;

	vec_push(pids, pid);
	r = proc_children(pid, &children, err);
	for (size_t i = 0; r >= 0 && i < children.len; i++)
		r = collect(children.at[i], pids, err);
	vec_free(&children);
	return r == -ESRCH && pids->len > 1 ? 0 : r;    /* a child that ended meanwhile */
}

static int signal_tree(pid_t root, int signal, struct err *err)
{
	struct proc_ids pids = { 0 };
	struct proc_stat stat;
	int r = proc_stat(root, 0, &stat, err), reached = 0;

	if (r == -ESRCH)
		return err_set(err, ESRCH, "there is no process %d", root);
	if (r == 0)
		r = collect(root, &pids, err);
	for (size_t i = pids.len; r >= 0 && i-- > 0;) {
		if (kill(pids.at[i], signal) == 0)
			reached++;
		else if (errno != ESRCH)
			r = err_sys(err, "signal process %d", pids.at[i]);
	}
	vec_free(&pids);
	return r < 0 ? r : reached;
}

int tree_resume(pid_t root, struct err *err)
{
	return signal_tree(root, SIGCONT, err);
}

int tree_kill(pid_t root, struct err *err)
{
	return signal_tree(root, SIGKILL, err);
}
