/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/places.h"
#include "engine/see.h"
#include "engine/vdso.h"
#include "kernel/sys.h"

#define USER_CS      0x33u              /* 64-bit code */
#define PF_IO_WORKER 0x10u

int see_refused(struct seeing *s, int r, const struct err *err)
{
	if (r != -EOPNOTSUPP || !s->refused.tell)
		return r;
	s->refused.count++;
	s->refused.tell(s->refused.arg, err);
	return 0;
}

/* What would be lost without a word must not be dumped. */
static int check_task(struct seeing *s, const struct seen_task *seen, const struct task *t, struct err *err)
{
	if (seen->status.kthread)
		return err_set(err, EINVAL, "it is a kernel thread");
	if (seen->status.seccomp != 0)
		return err_set(err, EOPNOTSUPP, "it has a seccomp filter: not handled yet");
	return see_namespaces(s, t->pid, false, err);
}

/* Threads may each have namespaces, descriptors and directories of their own; the images have one of each a task. */
static int check_thread(struct seeing *s, pid_t pid, pid_t tid, struct err *err)
{
	static const struct { enum sys_kcmp what; const char *name; } shared[] = {
		{ SYS_KCMP_FILES, "descriptor table" }, { SYS_KCMP_FS, "working directory" },
	};
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_LEN(shared); i++) {
		r = sys_kcmp(pid, tid, shared[i].what, 0, 0, err);
		if (r > 0)
			return err_set(err, EOPNOTSUPP, "it has a %s of its own: not handled yet", shared[i].name);
	}
	return r < 0 ? r : see_namespaces(s, tid, true, err);
}

static int check_sharing(struct seeing *s, const struct task *t, struct err *err)
{
	pid_t same = 0;
	int r = kcmp_set_add(&s->memories, t->pid, &same, err);

	if (r == 0 && same)
		return err_set(err, EOPNOTSUPP, "it shares its memory with process %d: not handled yet", same);
	if (r == 0)
		r = kcmp_set_add(&s->dirs, t->pid, &same, err);
	if (r == 0 && same)
		return err_set(err, EOPNOTSUPP, "it shares its working directory with process %d (CLONE_FS): not handled yet",
			       same);
	return r;
}

/*
 * io_uring's workers stand among a program's threads, but never run code of its: the kernel shows them with neither
 * an instruction nor a stack.  A ring that is open is refused as a descriptor; the worker of one that was
 * closed is idle, and is nobody's.
 */
static bool is_kernels(const struct subject *subject)
{
	struct proc_stat stat;

	return subject->seen.rip == 0 && subject->seen.rsp == 0 &&
	       proc_stat(subject->tid, 0, &stat, &(struct err){ 0 }) == 0 && stat.flags & PF_IO_WORKER;
}

static void tell_call(const struct frozen_tree *tree, struct subject *subject)
{
	for (size_t i = 0; subject->call_unknown && i < tree->calls.len; i++)
		if (tree->calls.at[i].tid == subject->tid)
			subject_in_call(subject, tree->calls.at[i].nr);
}

static int see_thread_outside(struct seeing *s, struct seen_task *seen, struct task *t, pid_t tid, struct err *err)
{
	struct subject *subject = vec_add(&seen->subjects);
	int r = subject_see(tid, subject, err);

	LOG_SCOPE("thread %d", tid);
	if (r < 0)
		return r;
	tell_call(s->tree, subject);
	if (is_kernels(subject)) {
		subject_free(subject);
		seen->subjects.len--;
		return 0;
	}
	if (subject->seen.cs != USER_CS)
		return err_set(err, EOPNOTSUPP, "it runs 32-bit code: not handled yet");
	vec_add(&t->threads)->tid = tid;
	return tid == t->pid ? 0 : see_refused(s, check_thread(s, t->pid, tid, err), err);
}

static int run_kinds(const struct task_view *v, struct subject *s, size_t index, struct task *t, struct err *err)
{
	int r = 0;

	for (size_t k = 0; r == 0 && thread_kinds[k]; k++)
		if (thread_kinds[k]->see)
			r = thread_kinds[k]->see(v, s, &t->threads.at[index], err);
	for (size_t k = 0; r == 0 && index == 0 && task_kinds[k]; k++)
		if (task_kinds[k]->see)
			r = task_kinds[k]->see(v, t, err);
	return r;
}

static int ask_brk(struct subject *s, struct task *t, struct err *err)
{
	int64_t answer;
	int r;

	if (!s->open)
		return 0;
	r = view_ask(s, SYS_brk, (const uint64_t[6]){ 0 }, &answer, err);
	if (r == 0)
		t->mm.brk = (uint64_t)answer;
	return r;
}

static int see_thread(struct seen_task *seen, size_t index, struct task *t, struct err *err)
{
	struct subject *s = &seen->subjects.at[index];
	const struct task_view view = {
		.stat = &seen->stat, .status = &seen->status, .subject = &seen->subjects.at[0],
		.subjects = seen->subjects.at, .maps = &seen->maps,
	};
	int r;

	LOG_SCOPE("thread %d", s->tid);
	r = run_kinds(&view, s, index, t, err);
	return r == 0 && index == 0 ? ask_brk(s, t, err) : r;
}

/* ---- questions: all frames are laid first, then the whole tree is asked at once ---- */

/* The mapping of a libc's code that was looked through for another task; NULL: this one has another. */
static const struct proc_map *find_known_libc(const struct known_libc *known, const struct proc_maps *maps)
{
	for (size_t i = 0; known->ino && i < maps->len; i++) {
		const struct proc_map *m = &maps->at[i];

		if (m->ino == known->ino && m->dev == known->dev && m->pgoff_bytes == known->pgoff && m->prot & PROT_EXEC)
			return m;
	}
	return NULL;
}

static int find_gadgets(struct seeing *s, const struct seen_task *seen, pid_t pid, struct gadgets *ret_gadgets,
			struct err *err)
{
	struct known_libc *known = &s->libc;
	const struct proc_map *m = find_known_libc(known, &seen->maps);
	int r;

	if (m && gadgets_moved(pid, &known->gadgets, m->start - known->start, ret_gadgets))
		return 0;
	r = gadgets_find(pid, &seen->maps, ret_gadgets, err);
	m = r == 0 ? proc_maps_find(&seen->maps, ret_gadgets->sigreturn) : NULL;
	if (m)
		*known = (struct known_libc){ m->dev, m->ino, m->start, m->pgoff_bytes, *ret_gadgets };
	return r;
}

static int open_thread(struct seen_task *seen, size_t index, struct err *err)
{
	return subject_open(&seen->subjects.at[index], &seen->gadgets, &seen->maps, seen->subjects.at, seen->subjects.len, err);
}

static int open_task(struct seeing *s, struct seen_task *seen, const struct task *t, struct err *err)
{
	struct gadgets *g = &seen->gadgets;
	int r = find_gadgets(s, seen, t->pid, g, err);

	if (r == -ENOENT) {
		log_warn("%s: some of its state can't be asked", err->text);
		return 0;
	}
	if (t->state != TASK_STOPPED)   /* one that job control holds is asked by single calls */
		g->signal = gadgets_choose_signal(g, seen->status.sig_cgt, seen->status.sig_pnd | seen->status.shd_pnd);
	for (size_t i = 0; r == 0 && i < seen->subjects.len; i++) {
		r = open_thread(seen, i, err);
		r = r == -ENOSPC ? 0 : r;       /* open_late() */
	}
	return r;
}

/* Threads without a stack of their own (Go's) borrow room on another one's: there may not be enough for all at once. */
static int open_late(struct seen_task *seen, size_t index, struct err *err)
{
	struct subject *s = &seen->subjects.at[index];
	int r;

	if (s->open || !seen->gadgets.syscall)
		return 0;
	r = open_thread(seen, index, err);
	if (r == -ENOSPC) {
		log_warn("%s: some of its state can't be asked", err->text);
		return 0;
	}
	return r < 0 ? r : question_ask_ahead(&s, 1, thread_questions, thread_question_count, err);
}

static int ask_tree(struct seeing *s, struct err *err)
{
	VEC(struct subject *) threads = { 0 };
	VEC(struct subject *) leaders = { 0 };
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->snapshot->tasks.len; i++) {
		struct seen_task *seen = &s->tasks[i];
		const struct task *t = &s->snapshot->tasks.at[i];

		LOG_SCOPE("task %d (%s)", t->pid, seen->stat.comm);
		if (t->state == TASK_ZOMBIE)
			continue;
		r = open_task(s, seen, t, err);
		for (size_t k = 0; r == 0 && k < seen->subjects.len; k++) {
			if (!seen->subjects.at[k].open)
				continue;
			vec_push(&threads, &seen->subjects.at[k]);
			if (k == 0)
				vec_push(&leaders, &seen->subjects.at[k]);
		}
	}
	if (r == 0)
		r = question_ask_ahead(threads.at, threads.len, thread_questions, thread_question_count, err);
	if (r == 0)
		r = question_ask_ahead(leaders.at, leaders.len, task_questions, task_question_count, err);
	vec_free(&threads);
	vec_free(&leaders);
	return r;
}

/* Every thread is given back what it had, whatever else failed. */
static int close_task(struct seen_task *seen, struct err *err)
{
	int r = 0;

	for (size_t k = 0; k < seen->subjects.len; k++) {
		int one = subject_close(&seen->subjects.at[k], err);

		r = one < 0 ? one : r;
	}
	return r;
}

static int close_tree(struct seeing *s, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < s->snapshot->tasks.len; i++) {
		int one = close_task(&s->tasks[i], err);

		r = one < 0 ? one : r;
	}
	return r;
}

static const struct proc_maps *looked_at(const struct seeing *s, pid_t pid)
{
	for (size_t i = 0; i < s->look->tasks.len; i++)
		if (s->look->tasks.at[i].pid == pid)
			return &s->look->tasks.at[i].maps;
	return NULL;
}

/* The mappings' flags were read before the freeze; what has changed since is read again. */
static int see_maps(struct seeing *s, struct seen_task *seen, pid_t pid, struct err *err)
{
	const struct proc_maps *before = looked_at(s, pid);
	size_t at = 0;
	int r = proc_maps(pid, &seen->maps, err);

	if (r < 0)
		return r;
	for (size_t i = 0; before && i < seen->maps.len; i++) {
		struct proc_map *m = &seen->maps.at[i];

		while (at < before->len && before->at[at].start < m->start)
			at++;
		if (at == before->len || before->at[at].start != m->start || before->at[at].end != m->end ||
		    before->at[at].prot != m->prot || before->at[at].ino != m->ino || before->at[at].vm_flags == 0)
			return proc_smaps_flags(pid, &seen->maps, err);
		m->vm_flags = before->at[at].vm_flags;
		m->shared_bytes = before->at[at].shared_bytes;
	}
	return before ? 0 : proc_smaps_flags(pid, &seen->maps, err);
}

/* What can be seen without asking. */
static int see_outside(struct seeing *s, size_t index, struct task *t, struct err *err)
{
	const struct frozen_task *frozen = &s->tree->tasks.at[index];
	struct seen_task *seen = &s->tasks[index];
	int r = proc_status(t->pid, 0, &seen->status, err);

	if (r == 0)
		r = see_refused(s, check_task(s, seen, t, err), err);
	if (r == 0)
		r = see_refused(s, check_sharing(s, t, err), err);
	if (r >= 0)
		r = see_maps(s, seen, t->pid, err);
	for (size_t i = 0; r >= 0 && i < frozen->tids.len; i++)
		r = see_thread_outside(s, seen, t, frozen->tids.at[i], err);
	t->umask = seen->status.umask;
	return r < 0 ? r : 0;
}

static int begin_task(struct seeing *s, size_t index, struct err *err)
{
	const struct frozen_task *frozen = &s->tree->tasks.at[index];
	struct seen_task *seen = &s->tasks[index];
	struct task *t;
	int r = proc_stat(frozen->pid, 0, &seen->stat, err);

	if (r < 0)
		return r;
	LOG_SCOPE("task %d (%s)", frozen->pid, seen->stat.comm);
	t = vec_add(&s->snapshot->tasks);
	t->pid = frozen->pid;
	t->ppid = frozen->parent;
	t->pgid = seen->stat.pgrp;
	t->sid = seen->stat.sid;
	t->flags = seen->stat.flags;
	t->stop_signal = (uint32_t)frozen->stop_signal;
	t->state = frozen->zombie ? TASK_ZOMBIE : frozen->stop_signal ? TASK_STOPPED : TASK_ALIVE;
	if (!frozen->zombie)
		return see_outside(s, index, t, err);
	t->exit_code = seen->stat.exit_code;
	vec_add(&t->threads)->tid = t->pid;
	memcpy(t->threads.at[0].comm, seen->stat.comm, sizeof(t->threads.at[0].comm) - 1);
	return 0;
}

static int see_task(struct seeing *s, size_t index, struct err *err)
{
	struct seen_task *seen = &s->tasks[index];
	struct task *t = &s->snapshot->tasks.at[index];
	int r = 0;

	LOG_SCOPE("task %d (%s)", t->pid, seen->stat.comm);
	for (size_t i = 0; r >= 0 && t->state != TASK_ZOMBIE && i < t->threads.len; i++) {
		r = open_late(seen, i, err);
		if (r >= 0)
			r = see_thread(seen, i, t, err);
		if (r >= 0 && i > 0)    /* the leader may be asked for the task's sake */
			r = subject_close(&seen->subjects.at[i], err);
	}
	if (r >= 0)
		r = close_task(seen, err);
	if (r >= 0 && t->state != TASK_ZOMBIE)
		r = see_mm(s, seen, t, err);
	if (r >= 0 && s->tell.ready)
		s->tell.ready(s->tell.arg, index);
	return r < 0 || t->state == TASK_ZOMBIE ? r : see_files(s, index, t, err);
}

static int see_all(struct seeing *s, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < s->tree->tasks.len; i++)
		r = begin_task(s, i, err);
	if (r >= 0)
		r = ask_tree(s, err);
	if (r >= 0 && s->tell.listed)
		r = s->tell.listed(s->tell.arg, err);
	for (size_t i = 0; r >= 0 && i < s->tree->tasks.len; i++)
		r = see_refused(s, see_task(s, i, err), err);
	return r;
}

static int check_session(struct seeing *s, struct err *err)
{
	const struct task *root = &s->snapshot->tasks.at[0];

	if (root->sid == root->pid || s->shell_job)
		return 0;
	return err_set(err, EINVAL, "the root process %d is not the leader of its session (%d is): "
		       "use --shell-job if it was started from a shell", root->pid, root->sid);
}

static int resolve_files(struct seeing *s, struct err *err)
{
	for (size_t i = 0; i < s->snapshot->files.len; i++) {
		struct file *f = &s->snapshot->files.at[i];
		int r;

		LOG_SCOPE("task %d > fd %d", f->pid, f->fd);
		r = f->type->resolve ? see_refused(s, f->type->resolve(f, s->snapshot, err), err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

int see_tree(struct seeing *s, struct err *err)
{
	int r, closed;

	s->tasks = mem_new(s->tree->tasks.len * sizeof(*s->tasks));
	s->memories.what = SYS_KCMP_VM;
	s->tables.what = SYS_KCMP_FILES;
	s->dirs.what = SYS_KCMP_FS;
	for (size_t i = 0; i < s->tree->tasks.len; i++)
		s->forked_since |= !s->tree->tasks.at[i].zombie && !looked_at(s, s->tree->tasks.at[i].pid);
	r = vdso_own(&s->vdso, err);
	if (r == 0)
		r = see_all(s, err);
	closed = close_tree(s, r < 0 ? &(struct err){ 0 } : err);
	if (r < 0 || closed < 0)
		return r < 0 ? r : closed;
	r = s->refused.count > 0 ? 0 : resolve_files(s, err);
	if (r >= 0)
		r = check_session(s, err);
	return r < 0 ? r : see_refused(s, check_places(s->snapshot, err), err);
}

void seeing_free(struct seeing *s)
{
	for (size_t i = 0; s->tasks && i < s->tree->tasks.len; i++) {
		struct seen_task *t = &s->tasks[i];

		for (size_t k = 0; k < t->subjects.len; k++)
			subject_free(&t->subjects.at[k]);
		vec_free(&t->subjects);
		proc_status_free(&t->status);
		proc_maps_free(&t->maps);
	}
	free(s->tasks);
	vec_free(&s->by_order);
	kcmp_set_free(&s->memories);
	kcmp_set_free(&s->tables);
	kcmp_set_free(&s->dirs);
	if (s->have_socks)
		sock_diag_free(&s->socks);
}
