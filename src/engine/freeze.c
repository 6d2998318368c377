/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/freeze.h"
#include "kernel/ptrace.h"

#define SPIN_US    2000u        /* a runnable thread stops in less */
#define SHORT_US   30u          /* and on another processor in this */
#define AGAIN_US   5000u        /* an exec that ends other threads loses the trap that was asked for (seen on 6.18) */
#define NAP_NS     200000
#define DOUBTS_MAX 100u         /* answers that only a race explains */

struct freezing {
	struct frozen_tree tree;
	uint64_t deadline_us;
	unsigned int doubts;
	void (*ends)(void *arg, pid_t tid);     /* NULL: nobody wants to know */
	void *arg;
	bool again;                     /* something came or went: all is looked at once more */
	bool died;                      /* somebody ended: its children have another parent now */
};

/* What we see can't last: it is looked at again, but not for ever. */
static bool may_doubt(struct freezing *f)
{
	f->again = true;
	return f->doubts++ < DOUBTS_MAX;
}

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

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = NAP_NS }, NULL);
}

/*
 * Whoever goes before all others has to sleep for them: shortly for one on another processor, and for one on this
 * processor long enough that it gets somewhere (in naps of 1 us it got nowhere in 2 ms).
 */
static void let_run(uint64_t waited_us)
{
	if ((sched_getscheduler(0) & ~SCHED_RESET_ON_FORK) == SCHED_FIFO)
		nanosleep(&(struct timespec){ .tv_nsec = waited_us < SHORT_US ? 1000 : 30000 }, NULL);
	else
		sched_yield();
}

/* ---- threads ---- */

/* Why it can't be seized.  0: it is about to end, or (by an exec) took the place of another thread that we held. */
static int tell_refusal(struct freezing *f, pid_t pid, pid_t tid, struct err *err)
{
	struct proc_status status;
	int code = err->code, r = proc_status(pid, tid, &status, err);
	pid_t tracer = r == 0 ? status.tracer_pid : 0;

	if (r == 0)
		proc_status_free(&status);
	if (r == -ESRCH || r == -ENOENT || (r == 0 && proc_is_dead(status.state))) {
		f->again |= tid != pid;         /* a leader may stay dead, see check_leaders() */
		return 0;
	}
	if (r < 0)
		return r;
	if (tracer == getpid())
		return 1;
	if (tracer > 0)
		return err_set(err, EBUSY, "process %d traces it (a debugger?)", tracer);
	if (status.kthread)
		return err_set(err, EINVAL, "it is a kernel thread");
	return may_doubt(f) ? 0 : err_set(err, code, "not allowed to trace thread %d", tid);
}

/* 1: seized; 0: it is gone. */
static int seize(struct freezing *f, const struct frozen_task *t, pid_t tid, struct err *err)
{
	int r;

	reaper_look_at(f->tree.reaper, t->tids.at, t->tids.len);
	r = ptrace_seize(tid, PTRACE_O_TRACESYSGOOD, err);
	reaper_look_at(f->tree.reaper, NULL, 0);
	if (r == -EPERM) {
		r = tell_refusal(f, t->pid, tid, err);
		if (r <= 0)
			return r;
	}
	if (r >= 0)
		r = ptrace_interrupt(tid, err);
	if (r == -ESRCH)
		f->again = true;
	return r == -ESRCH ? 0 : r < 0 ? r : 1;
}

/* Seizes what is new in a task; *ret_from is the first of them in t->tids. */
static int seize_new(struct freezing *f, struct frozen_task *t, size_t *ret_from, struct err *err)
{
	struct proc_ids tids = { 0 };
	size_t from = t->tids.len;
	int r = proc_threads(t->pid, &tids, err);

	for (size_t i = 0; r >= 0 && i < tids.len; i++) {
		if (is_held(t, tids.at[i]))
			continue;
		r = seize(f, t, tids.at[i], err);
		if (r > 0)
			vec_push(&t->tids, tids.at[i]);
	}
	vec_free(&tids);
	*ret_from = from;
	return r == -ESRCH ? 0 : r < 0 ? r : 0;
}

/*
 * A signal that was taken between our two calls stops it first, and so does a system call, where we traced it before:
 * it goes on with that.  Any stop takes back the trap that we asked for, so it is asked for again.
 */
static void pass_stop(const struct freezing *f, pid_t tid, int status)
{
	bool by_signal = status >> 16 == 0 && WSTOPSIG(status) != PTRACE_SYSCALL_STOP;

	if (status >> 16 == PTRACE_EVENT_EXIT && f->ends)
		f->ends(f->arg, tid);
	ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
	ptrace(PTRACE_CONT, tid, NULL, by_signal ? (long)WSTOPSIG(status) : 0l);
}

/* Where in the kernel it is tells who has to be asked. */
static int does_not_stop(pid_t tid, struct err *err)
{
	char where[64] = "", stack[1000] = "";
	struct proc_stat st = { .state = '?' };
	struct err other;

	(void)proc_stat(tid, 0, &st, &other);
	(void)proc_read(tid, "wchan", where, sizeof(where), &other);
	if (proc_read(tid, "stack", stack, sizeof(stack), &other) >= 0)
		log_info("thread %d does not stop; in the kernel it is at\n%s", tid, stack);
	return err_set(err, ETIMEDOUT, "thread %d does not stop (state %c, at '%.40s' in the kernel: it sleeps uninterruptibly, or waits "
		       "for a vfork)", tid, st.state, where);
}

/* 1: it stands; 0: it is gone. */
static int wait_stop(const struct freezing *f, struct frozen_task *t, pid_t tid, struct err *err)
{
	const uint64_t since = clock_us();
	uint64_t asked = since;
	int status;

	for (;;) {
		pid_t got = waitpid(tid, &status, __WALL | WNOHANG);

		if (got == tid && WIFSTOPPED(status) && status >> 16 != PTRACE_EVENT_STOP)
			pass_stop(f, tid, status);
		else if (got == tid)
			break;
		else if (got < 0 && errno == ECHILD)    /* reaped, or it has a new number: exec by a thread */
			return 0;
		else if (got < 0 && errno != EINTR)
			return err_sys(err, "wait for thread %d", tid);
		if (clock_us() > f->deadline_us)
			return does_not_stop(tid, err);
		if (clock_us() < since + SPIN_US) {
			let_run(clock_us() - since);
			continue;
		}
		for (size_t i = 0; i < t->tids.len; i++)
			if (t->tids.at[i] != tid)
				reap_if_dead(t->tids.at[i]);
		if (clock_us() > asked + AGAIN_US) {
			ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
			asked = clock_us();
		}
		nap();
	}
	if (!WIFSTOPPED(status))
		return 0;
	if (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP)
		t->stop_signal = WSTOPSIG(status);
	return 1;
}

static int settle(struct freezing *f, struct frozen_task *t, size_t from, struct err *err)
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

/* ---- tasks ---- */

/* A first thread that ended before others is no zombie, and one that an exec has just replaced counts no threads. */
static bool is_zombie(const struct proc_stat *st)
{
	return st->state == 'Z' && st->num_threads == 1;
}

/* None of its threads could be held: it is a zombie now, or is no more, or is about to be one of both. */
static int lost_task(struct freezing *f, size_t index, struct err *err)
{
	struct frozen_task *t = &f->tree.tasks.at[index];
	struct proc_stat st;
	int r = proc_stat(t->pid, 0, &st, err);

	if (r < 0 && r != -ESRCH)
		return r;
	f->again = f->died = true;
	if (r == 0 && st.state != 'Z' && st.state != 'X')
		return 0;
	if (index == 0)
		return may_doubt(f) ? 0 : err_set(err, ESRCH, "it has ended%s", r == 0 ? " (a zombie)" : "");
	if (r == 0) {
		t->zombie = is_zombie(&st);
		return 0;
	}
	vec_free(&t->tids);
	f->tree.tasks.len--;
	memmove(t, t + 1, (f->tree.tasks.len - index) * sizeof(*t));
	return 0;
}

/* Until a look at its threads finds nobody new: then none can come. */
static int hold_task(struct freezing *f, size_t index, struct err *err)
{
	struct frozen_task *t = &f->tree.tasks.at[index];
	unsigned int doubts = f->doubts;
	int r = 0;

	LOG_SCOPE("task %d", t->pid);
	if (t->pid == getpid())
		return err_set(err, EINVAL, "it is this very command: a tree can't be dumped from inside");
	for (bool more = true; r == 0 && more;) {
		size_t from;

		r = seize_new(f, t, &from, err);
		more = r == 0 && t->tids.len > from;
		if (more)
			r = settle(f, t, from, err);
	}
	t->stands = t->tids.len > 0 && f->doubts == doubts;
	return r == 0 && t->tids.len == 0 ? lost_task(f, index, err) : r;
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
		.pid = pid, .parent = parent, .zombie = parent > 0 && is_zombie(&st) }));
	return 0;
}

static int add_children(struct freezing *f, size_t index, struct err *err)
{
	pid_t parent = f->tree.tasks.at[index].pid;
	struct proc_ids pids = { 0 };
	int r = proc_children(parent, &pids, err);

	for (size_t i = 0; r >= 0 && i < pids.len; i++)
		if (!is_known(&f->tree, pids.at[i])) {
			r = add_task(f, pids.at[i], parent, err);
			f->again = f->tree.tasks.at[index].has_children = true;
		}
	vec_free(&pids);
	if (r == -ESRCH)
		f->again = true;
	return r == -ESRCH ? 0 : r < 0 ? r : 0;
}

/* An exec ends threads that stood, and gives its leader's number to one that may not stand. */
static void drop_lost(struct freezing *f)
{
	for (size_t i = 0; i < f->tree.tasks.len; i++) {
		struct frozen_task *t = &f->tree.tasks.at[i];
		size_t kept = 0;

		for (size_t k = 0; k < t->tids.len; k++)
			if (ptrace(PTRACE_PEEKUSER, t->tids.at[k], NULL, NULL) >= 0 || errno != ESRCH)
				t->tids.at[kept++] = t->tids.at[k];
			else
				reap_if_dead(t->tids.at[k]);
		if (kept < t->tids.len) {
			f->again = true;
			t->stands = false;
		}
		t->tids.len = kept;
	}
}

/* One that stands gets children only from others: theirs (CLONE_PARENT), or those of one that ended (a subreaper). */
static int freeze_round(struct freezing *f, struct err *err)
{
	bool orphans = f->died;
	int r = 0;

	f->again = f->died = false;
	for (size_t i = 0; r == 0 && i < f->tree.tasks.len; i++) {
		pid_t pid = f->tree.tasks.at[i].pid;
		bool is_new = !f->tree.tasks.at[i].stands;

		if (f->tree.tasks.at[i].zombie)
			continue;
		if (is_new)
			r = hold_task(f, i, err);
		if (i == f->tree.tasks.len || f->tree.tasks.at[i].pid != pid)
			i--;            /* it is no more: the next one has its place */
		else if (r == 0 && f->tree.tasks.at[i].stands && (is_new || orphans || f->tree.tasks.at[i].has_children))
			r = add_children(f, i, err);
	}
	return r;
}

static int freeze_all(struct freezing *f, struct err *err)
{
	int r;

	do {
		if (f->doubts > 0)
			nap();
		r = freeze_round(f, err);
		if (r == 0 && !f->again)
			drop_lost(f);
		if (r == 0 && f->again && clock_us() > f->deadline_us)
			return err_set(err, ETIMEDOUT, "tasks come and go faster than they can be stopped");
	} while (r == 0 && f->again);
	return r;
}

/* Threads stand in the order of their ids, which come round: the leader's may not be the lowest. */
static int check_leaders(struct freezing *f, struct err *err)
{
	for (size_t i = 0; i < f->tree.tasks.len; i++) {
		struct frozen_task *t = &f->tree.tasks.at[i];
		size_t at = 0;

		if (t->zombie)
			continue;
		while (at < t->tids.len && t->tids.at[at] != t->pid)
			at++;
		if (at == t->tids.len)
			return err_set(err, EOPNOTSUPP, "task %d: its first thread has ended, others live on: not handled yet",
				       t->pid);
		memmove(&t->tids.at[1], &t->tids.at[0], at * sizeof(t->tids.at[0]));
		t->tids.at[0] = t->pid;
	}
	return 0;
}

/* All but the leaders, for whom everybody waits who wants to know of the end. */
static void list_threads(struct frozen_tree *tree)
{
	for (size_t i = 0; i < tree->tasks.len; i++)
		for (size_t k = 1; k < tree->tasks.at[i].tids.len; k++)
			vec_push(&tree->threads, tree->tasks.at[i].tids.at[k]);
	reaper_look_at(tree->reaper, tree->threads.at, tree->threads.len);
}

static int check_root(pid_t root, struct err *err)
{
	struct proc_status status;
	pid_t tgid;
	int r = proc_status(root, 0, &status, err);

	if (r < 0)
		return r == -ESRCH ? err_set(err, ESRCH, "there is no process %d", root) : r;
	tgid = status.tgid;
	proc_status_free(&status);
	if (tgid != root)
		return err_set(err, EINVAL, "%d is a thread of process %d", root, tgid);
	return 0;
}

int freeze_traced(pid_t root, uint64_t timeout_us, void (*ends)(void *arg, pid_t tid), void *arg,
		  struct frozen_tree *ret_tree, struct err *err)
{
	struct freezing f = { .deadline_us = clock_us() + timeout_us, .ends = ends, .arg = arg };
	int r = check_root(root, err);

	if (r == 0)
		r = add_task(&f, root, 0, err);
	if (r == 0)
		r = reaper_start(&f.tree.reaper, err);
	if (r == 0)
		r = freeze_all(&f, err);
	if (r == 0)
		r = check_leaders(&f, err);
	if (r < 0) {
		freeze_release(&f.tree, false, &(struct err){ 0 });
		freeze_free(&f.tree);
		return r;
	}
	list_threads(&f.tree);
	*ret_tree = f.tree;
	return 0;
}

int freeze_tree_within(pid_t root, uint64_t timeout_us, struct frozen_tree *ret_tree, struct err *err)
{
	return freeze_traced(root, timeout_us, NULL, NULL, ret_tree, err);
}

int freeze_tree(pid_t root, unsigned int timeout_s, struct frozen_tree *ret_tree, struct err *err)
{
	return freeze_tree_within(root, timeout_s * 1000000ull, ret_tree, err);
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
	reaper_free(tree->reaper);
	vec_free(&tree->threads);
	vec_free(&tree->calls);
	tree->reaper = NULL;
}
