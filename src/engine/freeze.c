/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/freeze.h"
#include "kernel/ptrace.h"

#define SPIN_US  2000u          /* a runnable thread stops in less */
#define NAP_NS   200000

struct freezing {
	struct frozen_tree tree;
	uint64_t deadline_us;
	bool died;                      /* somebody ended before we held it: its children have another parent now */
};

static bool is_held(const struct frozen_task *t, pid_t tid)
{
	for (size_t i = 0; i < t->tids.len; i++)
		if (t->tids.at[i] == tid)
			return true;
	return false;
}

static bool is_known(const struct frozen_tree *tree, pid_t pid)
{
	for (size_t i = 0; i < tree->tasks.len; i++)
		if (tree->tasks.at[i].pid == pid)
			return true;
	return false;
}

static int tell_tracer(pid_t pid, pid_t tid, struct err *err)
{
	struct proc_status status;

	if (err->code == EPERM && proc_status(pid, tid, &status, err) == 0) {
		pid_t tracer = status.tracer_pid;

		proc_status_free(&status);
		if (tracer > 0)
			return err_set(err, EBUSY, "process %d traces it (a debugger?)", tracer);
		return err_set(err, EPERM, "not allowed to trace it");
	}
	return -err->code;
}

/* 1: seized; 0: it is gone. */
static int seize(struct frozen_task *t, pid_t tid, struct err *err)
{
	int r = ptrace_seize(tid, PTRACE_O_TRACESYSGOOD, err);

	if (r == 0)
		r = ptrace_interrupt(tid, err);
	if (r == -ESRCH)
		return 0;
	return r < 0 ? tell_tracer(t->pid, tid, err) : 1;
}

/* Seizes what is new in a task; *ret_from is the first of them in t->tids. */
static int seize_new(struct frozen_task *t, size_t *ret_from, struct err *err)
{
	struct proc_ids tids = { 0 };
	size_t from = t->tids.len;
	int r = proc_threads(t->pid, &tids, err);

	for (size_t i = 0; r >= 0 && i < tids.len; i++) {
		if (is_held(t, tids.at[i]))
			continue;
		r = seize(t, tids.at[i], err);
		if (r > 0)
			vec_push(&t->tids, tids.at[i]);
	}
	vec_free(&tids);
	*ret_from = from;
	return r < 0 ? r : 0;
}

/* 1: it stands; 0: it is gone. */
static int wait_stop(const struct freezing *f, struct frozen_task *t, pid_t tid, struct err *err)
{
	uint64_t spin_until = clock_us() + SPIN_US;
	int status;

	for (;;) {
		pid_t got = waitpid(tid, &status, __WALL | WNOHANG);

		if (got == tid)
			break;
		if (got < 0 && errno != EINTR)
			return err_sys(err, "wait for thread %d", tid);
		if (clock_us() > f->deadline_us)
			return err_set(err, ETIMEDOUT, "thread %d does not stop (it sleeps uninterruptibly, or waits for a vfork)", tid);
		if (clock_us() < spin_until)
			sched_yield();
		else
			nanosleep(&(struct timespec){ .tv_nsec = NAP_NS }, NULL);
	}
	if (!WIFSTOPPED(status))
		return 0;
	if (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP)
		t->stop_signal = WSTOPSIG(status);
	return 1;
}

/*
 * Some signal may have been on its way: it is delivered, and the trap that we
 * asked for comes right behind.
 */
static int settle(const struct freezing *f, struct frozen_task *t, size_t from, struct err *err)
{
	size_t kept = from;

	for (size_t i = from; i < t->tids.len; i++) {
		int r = wait_stop(f, t, t->tids.at[i], err);

		if (r < 0)
			return r;
		if (r > 0)
			t->tids.at[kept++] = t->tids.at[i];
	}
	t->tids.len = kept;
	return 0;
}

/* Until a look at its threads finds nobody new: then none can come. */
static int hold_threads(struct freezing *f, struct frozen_task *t, struct err *err)
{
	bool more = true;
	int r = 0;

	while (r == 0 && more) {
		size_t from;

		r = seize_new(t, &from, err);
		more = r == 0 && t->tids.len > from;
		if (more)
			r = settle(f, t, from, err);
	}
	return r == 0 && t->tids.len == 0 ? err_set(err, ESRCH, "it ended") : r;
}

/* One that ended before it was held is a zombie, or is not there at all (pid 0). */
static int hold_task(struct freezing *f, size_t index, struct err *err)
{
	struct frozen_task *t = &f->tree.tasks.at[index];
	struct proc_stat st;
	int r;

	LOG_SCOPE("task %d", t->pid);
	if (t->zombie)
		return 0;
	r = hold_threads(f, t, err);
	if (r != -ESRCH || index == 0)
		return r;
	f->died = true;
	r = proc_stat(t->pid, 0, &st, err);
	if (r == 0 && st.state != 'Z' && st.state != 'X')
		return err_set(err, EBUSY, "its first thread has ended, others have not: not handled");
	t->zombie = true;
	t->pid = r == 0 ? t->pid : 0;
	return r == -ESRCH ? 0 : r;
}

static int add_task(struct freezing *f, pid_t pid, pid_t parent, struct err *err)
{
	struct proc_stat st;
	int r = proc_stat(pid, 0, &st, err);

	if (r == -ESRCH && parent > 0)
		return 0;               /* ended and was waited for between two looks */
	if (r == -ESRCH)
		return err_set(err, ESRCH, "there is no process %d", pid);
	if (r < 0)
		return r;
	vec_push(&f->tree.tasks, ((struct frozen_task){
		.pid = pid, .parent = parent, .zombie = st.state == 'Z' || st.state == 'X' }));
	return 0;
}

/* Of a task that stands: nobody can join them. */
static int add_children(struct freezing *f, size_t index, struct err *err)
{
	pid_t parent = f->tree.tasks.at[index].pid;
	struct proc_ids pids = { 0 };
	int r;

	if (f->tree.tasks.at[index].zombie)
		return 0;
	r = proc_children(parent, &pids, err);
	for (size_t i = 0; r >= 0 && i < pids.len; i++)
		if (!is_known(&f->tree, pids.at[i]))
			r = add_task(f, pids.at[i], parent, err);
	vec_free(&pids);
	return r < 0 ? r : 0;
}

static void forget_the_gone(struct frozen_tree *tree)
{
	size_t kept = 0;

	for (size_t i = 0; i < tree->tasks.len; i++)
		if (tree->tasks.at[i].pid != 0)
			tree->tasks.at[kept++] = tree->tasks.at[i];
	tree->tasks.len = kept;
}

/* Parents first.  When somebody ended meanwhile, its children went to another task of the tree (a subreaper) or left it. */
static int freeze_all(struct freezing *f, struct err *err)
{
	size_t held = 0;
	int r = 0;

	do {
		f->died = false;
		for (size_t i = 0; r == 0 && i < held; i++)
			r = add_children(f, i, err);
		for (; r == 0 && held < f->tree.tasks.len; held++) {
			r = hold_task(f, held, err);
			if (r == 0)
				r = add_children(f, held, err);
		}
	} while (r == 0 && f->died);
	forget_the_gone(&f->tree);
	return r;
}

int freeze_tree(pid_t root, unsigned int timeout_s, struct frozen_tree *ret_tree, struct err *err)
{
	struct freezing f = { .deadline_us = clock_us() + timeout_s * 1000000ull };
	int r = add_task(&f, root, 0, err);

	if (r == 0 && f.tree.tasks.at[0].zombie)
		r = err_set(err, ESRCH, "process %d has ended (a zombie)", root);
	if (r == 0)
		r = freeze_all(&f, err);
	if (r < 0) {
		freeze_release(&f.tree, false, &(struct err){ 0 });
		freeze_free(&f.tree);
		return r;
	}
	*ret_tree = f.tree;
	return 0;
}

int freeze_release(struct frozen_tree *tree, bool stopped, struct err *err)
{
	int r = 0;

	for (size_t i = tree->tasks.len; i-- > 0;) {
		struct frozen_task *t = &tree->tasks.at[i];

		if (stopped && !t->zombie && t->stop_signal == 0)
			kill(t->pid, SIGSTOP);
		for (size_t k = t->tids.len; k-- > 0;) {
			int one = ptrace_detach(t->tids.at[k], err);

			r = one < 0 ? one : r;
		}
	}
	return r;
}

void freeze_kill(struct frozen_tree *tree)
{
	for (size_t i = tree->tasks.len; i-- > 0;)
		if (!tree->tasks.at[i].zombie)
			kill(tree->tasks.at[i].pid, SIGKILL);
}

void freeze_free(struct frozen_tree *tree)
{
	for (size_t i = 0; i < tree->tasks.len; i++)
		vec_free(&tree->tasks.at[i].tids);
	vec_free(&tree->tasks);
}
