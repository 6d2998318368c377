/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/see.h"
#include "kernel/sys.h"

#define USER_CS 0x33u                   /* 64-bit code */

static int check_namespaces(pid_t pid, struct err *err)
{
	static const char *const names[] = { "pid", "mnt", "net", "ipc", "uts", "user", "cgroup", "time" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		dev_t dev, own_dev;
		ino_t ino, own_ino;
		int r = proc_ns_id(pid, names[i], &dev, &ino, err);

		if (r == 0)
			r = proc_ns_id(getpid(), names[i], &own_dev, &own_ino, err);
		if (r < 0)
			return r;
		if (dev != own_dev || ino != own_ino)
			return err_set(err, EOPNOTSUPP, "it is in another %s namespace than we: not handled yet", names[i]);
	}
	return 0;
}

/* What would be lost without a word must not be dumped. */
static int check_task(const struct seen_task *seen, const struct task *t, struct err *err)
{
	if (seen->status.kthread)
		return err_set(err, EINVAL, "it is a kernel thread");
	if (seen->status.seccomp != 0)
		return err_set(err, EOPNOTSUPP, "it has a seccomp filter: not handled yet");
	return check_namespaces(t->pid, err);
}

static int check_sharing(struct seeing *s, const struct task *t, struct err *err)
{
	for (size_t i = 0; i + 1 < s->snapshot->tasks.len; i++) {
		const struct task *o = &s->snapshot->tasks.at[i];
		int r;

		if (o->state == TASK_ZOMBIE)
			continue;
		r = sys_kcmp(o->pid, t->pid, SYS_KCMP_VM, 0, 0, err);
		if (r < 0)
			return r;
		if (r == 0)
			return err_set(err, EOPNOTSUPP, "it shares its memory with process %d: not handled yet", o->pid);
	}
	return 0;
}

static int see_thread_outside(struct seeing *s, struct seen_task *seen, struct task *t, pid_t tid, struct err *err)
{
	struct subject *subject = vec_add(&seen->subjects);
	int r = subject_see(tid, subject, err);

	(void)s;
	if (r < 0)
		return r;
	if (subject->seen.cs != USER_CS)
		return err_set(err, EOPNOTSUPP, "thread %d runs 32-bit code: not handled yet", tid);
	vec_add(&t->threads)->tid = tid;
	return 0;
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

/* One is open at a time: some borrow room on another one's stack. */
static int see_thread(struct seen_task *seen, const struct gadgets *g, size_t index, struct task *t, struct err *err)
{
	struct subject *s = &seen->subjects.at[index];
	const struct task_view view = {
		.stat = &seen->stat, .status = &seen->status, .subject = &seen->subjects.at[0],
		.subjects = seen->subjects.at, .maps = &seen->maps,
	};
	int r, closed;

	LOG_SCOPE("thread %d", s->tid);
	if (g) {
		r = subject_open(s, g, &seen->maps, seen->subjects.at, seen->subjects.len, err);
		if (r == -ENOSPC)
			log_warn("%s: some of its state can't be asked", err->text);
		else if (r < 0)
			return r;
	}
	r = run_kinds(&view, s, index, t, err);
	if (r == 0 && index == 0)
		r = ask_brk(s, t, err);
	closed = subject_close(s, r < 0 ? &(struct err){ 0 } : err);
	return r < 0 ? r : closed;
}

static int see_threads(struct seen_task *seen, struct task *t, struct err *err)
{
	struct gadgets gadgets;
	const struct gadgets *g = &gadgets;
	int r = gadgets_find(t->pid, &seen->maps, &gadgets, err);

	if (r == -ENOENT) {
		log_warn("%s: some of its state can't be asked", err->text);
		g = NULL;
	} else if (r < 0) {
		return r;
	}
	for (size_t i = 0; i < t->threads.len; i++) {
		r = see_thread(seen, g, i, t, err);
		if (r < 0)
			return r;
	}
	return 0;
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

static int see_alive(struct seeing *s, size_t index, struct task *t, struct err *err)
{
	const struct frozen_task *frozen = &s->tree->tasks.at[index];
	struct seen_task *seen = &s->tasks[index];
	int r = proc_status(t->pid, 0, &seen->status, err);

	if (r == 0)
		r = check_task(seen, t, err);
	if (r == 0)
		r = check_sharing(s, t, err);
	if (r >= 0)
		r = see_maps(s, seen, t->pid, err);
	for (size_t i = 0; r >= 0 && i < frozen->tids.len; i++)
		r = see_thread_outside(s, seen, t, frozen->tids.at[i], err);
	if (r >= 0)
		r = see_threads(seen, t, err);
	if (r >= 0)
		r = see_mm(s, seen, t, err);
	if (r >= 0)
		r = see_files(s, index, t, err);
	if (r >= 0)
		t->umask = seen->status.umask;
	return r;
}

static int see_task(struct seeing *s, size_t index, struct err *err)
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
	if (frozen->zombie) {
		t->exit_code = seen->stat.exit_code;
		vec_add(&t->threads)->tid = t->pid;
		memcpy(t->threads.at[0].comm, seen->stat.comm, sizeof(t->threads.at[0].comm) - 1);
		return 0;
	}
	return see_alive(s, index, t, err);
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
		r = f->type->resolve ? f->type->resolve(f, s->snapshot, err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

int see_tree(struct seeing *s, struct err *err)
{
	int r = 0;

	s->tasks = mem_new(s->tree->tasks.len * sizeof(*s->tasks));
	for (size_t i = 0; i < s->tree->tasks.len; i++)
		s->forked_since |= !s->tree->tasks.at[i].zombie && !looked_at(s, s->tree->tasks.at[i].pid);
	for (size_t i = 0; r >= 0 && i < s->tree->tasks.len; i++)
		r = see_task(s, i, err);
	if (r >= 0)
		r = resolve_files(s, err);
	return r < 0 ? r : check_session(s, err);
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
	if (s->have_socks)
		sock_diag_free(&s->socks);
}
