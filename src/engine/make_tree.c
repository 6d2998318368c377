/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make_tree.c - vessels, parents first, each in its session and group.
 *
 * A session can't be joined, only inherited: a child that is still in the
 * session which its parent has left is cloned before the parent leaves it; one
 * whose session's leader is gone (or is a brother) is cloned by a stand-in of
 * that session, as the parent's child all the same (CLONE_PARENT).  A group
 * whose leader is gone gets a stand-in too.  Stand-ins end when all are placed.
 */
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/order.h"
#include "engine/restoring.h"
#include "kernel/proc_task.h"

#define CLONE_TRIES     1000
#define PID_NAP_NS      1000000
#define ZOMBIE_WAIT_US  5000000u
#define STAGED_THREADS  64u     /* that a task may start while it is migrated */
#define OOM_FIRST       1000    /* oom_score_adj */

struct making *making_of(struct restoring *r, pid_t pid)
{
	const struct task *t = snapshot_task(&r->snapshot, pid);

	return t ? &r->tasks[t - r->snapshot.tasks.at] : NULL;
}

/* clone3 with a pid, by a script: the child stands in its first trap. */
static void script_clone(struct vessel *by, pid_t pid, uint64_t flags)
{
	struct clone_args args = {
		.flags = flags | CLONE_PTRACE,
		.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD,
		.set_tid = script_data(&by->script, &pid, sizeof(pid)),
		.set_tid_size = 1,
	};
	taddr at = script_data(&by->script, &args, sizeof(args));

	script_call_value(&by->script, (uint64_t)pid, SYS_clone3, "make a task with its pid", at, sizeof(args));
}

/* A pid is taken until the zombie that had it was waited for, and a moment longer. */
static int clone_when_free(struct vessel *by, pid_t pid, uint64_t flags, struct err *err)
{
	int done = -EEXIST;

	for (int tries = 0; done == -EEXIST && tries < CLONE_TRIES; tries++) {
		if (tries > 0)
			nanosleep(&(struct timespec){ .tv_nsec = PID_NAP_NS }, NULL);
		script_clone(by, pid, flags);
		done = vessel_run(by, err);
	}
	return done;
}

static int clone_by(struct vessel *by, pid_t pid, uint64_t flags, struct vessel *ret_vessel, struct err *err)
{
	int done = clone_when_free(by, pid, flags, err);

	if (done == -EEXIST)
		return err_set(err, EEXIST, "pid %d is taken by another task", pid);
	return done < 0 ? done : vessel_adopt(pid, by, ret_vessel, err);
}

static int lead_session(struct making *m, struct err *err)
{
	script_call_value(&m->vessel.script, (uint64_t)m->vessel.pid, SYS_setsid, "setsid", 0);
	m->sid = m->pgid = m->vessel.pid;
	return vessel_run(&m->vessel, err);
}

static int make_child(struct restoring *r, size_t index, struct vessel *by, uint64_t flags, pid_t sid, pid_t pgid,
		      struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index], *from = snapshot_task(&r->snapshot, by->pid);
	struct making *m = &r->tasks[index];
	int done;

	if (snapshot_shares_table(&r->snapshot, t)) {
		if (!from || t->files_id != from->files_id)
			return err_set(err, EOPNOTSUPP, "its descriptor table is another one's than its parent's: not handled yet");
		flags |= CLONE_FILES;
	}
	done = clone_by(by, t->pid, flags, &m->vessel, err);

	if (done < 0)
		return done;
	m->made = true;
	m->sid = sid;
	m->pgid = pgid;
	return 0;
}

static struct helper *find_helper(struct restoring *r, pid_t pid)
{
	for (size_t i = 0; i < r->helpers.len; i++)
		if (r->helpers.at[i].vessel.pid == pid)
			return &r->helpers.at[i];
	return NULL;
}

/* A stand-in with the pid of a leader that is gone; a child of `parent`. */
static int make_helper(struct restoring *r, pid_t pid, struct making *parent, uint32_t nr, struct helper **ret_helper,
		       struct err *err)
{
	struct helper h = { .parent = parent->vessel.pid };
	int done = clone_by(&parent->vessel, pid, 0, &h.vessel, err);

	if (done < 0)
		return done;
	vec_push(&r->helpers, h);
	*ret_helper = &r->helpers.at[r->helpers.len - 1];
	script_call(&(*ret_helper)->vessel.script, OP_WANT_ANY, nr, 0);       /* setsid(), or setpgid(0, 0) */
	return vessel_run(&(*ret_helper)->vessel, err);
}

static int make_subtree(struct restoring *r, size_t index, const struct task *memory_of, struct err *err);

static int make_children(struct restoring *r, size_t index, enum when when, pid_t born_sid, struct err *err)
{
	const struct snapshot *s = &r->snapshot;
	const struct task *parent = &s->tasks.at[index];
	struct making *p = &r->tasks[index];
	int done = 0;

	for (size_t i = index + 1; done == 0 && i < s->tasks.len; i++) {
		const struct task *t = &s->tasks.at[i];

		LOG_SCOPE("task %d", t->pid);
		if (t->ppid != parent->pid || when_to_clone(t, parent, born_sid) != when)
			continue;
		done = make_child(r, i, &p->vessel, 0, p->sid, p->pgid, err);
		if (done == 0)
			done = make_subtree(r, i, parent, err);
	}
	return done;
}

/* Somebody of that session who is a child of `parent`, or a stand-in. */
static int session_member(struct restoring *r, pid_t sid, struct making *parent, struct vessel **ret_by,
			  const struct task **ret_memory_of, struct err *err)
{
	struct helper *h = find_helper(r, sid);
	const struct task *leader = snapshot_task(&r->snapshot, sid);
	int done;

	*ret_memory_of = snapshot_task(&r->snapshot, parent->vessel.pid);
	if (leader && leader->ppid == parent->vessel.pid) {
		*ret_by = &making_of(r, sid)->vessel;
		*ret_memory_of = NULL;
		return 0;
	}
	if (leader || (h && h->parent != parent->vessel.pid))
		return err_set(err, EOPNOTSUPP, "it belongs to session %d, whose leader is no relative: not handled yet", sid);
	if (!h) {
		done = make_helper(r, sid, parent, SYS_setsid, &h, err);
		if (done < 0)
			return done;
	}
	*ret_by = &h->vessel;
	return 0;
}

static int make_strangers(struct restoring *r, size_t index, pid_t born_sid, struct err *err)
{
	const struct snapshot *s = &r->snapshot;
	const struct task *parent = &s->tasks.at[index];
	int done = 0;

	for (size_t i = index + 1; done == 0 && i < s->tasks.len; i++) {
		const struct task *t = &s->tasks.at[i], *memory_of;
		struct vessel *by;

		LOG_SCOPE("task %d", t->pid);
		if (t->ppid != parent->pid || when_to_clone(t, parent, born_sid) != BY_OTHER)
			continue;
		done = session_member(r, t->sid, &r->tasks[index], &by, &memory_of, err);
		if (done == 0)
			done = make_child(r, i, by, CLONE_PARENT, t->sid, t->sid, err);
		if (done == 0)
			done = make_subtree(r, i, memory_of, err);
	}
	return done;
}

static int make_subtree(struct restoring *r, size_t index, const struct task *memory_of, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index];
	struct making *m = &r->tasks[index];
	pid_t born_sid = m->sid;
	int done = 0;

	if (t->state == TASK_ZOMBIE)
		return t->sid == t->pid ? lead_session(m, err) : 0;
	done = make_mm(r, index, memory_of, err);
	if (done == 0 && t->sid == t->pid && m->sid != t->pid) {
		done = make_children(r, index, BEFORE_SETSID, born_sid, err);
		if (done == 0)
			done = lead_session(m, err);
	} else if (done == 0) {
		born_sid = t->sid;      /* nobody was left behind */
	}
	if (done == 0)
		done = make_children(r, index, AFTER_SETSID, born_sid, err);
	if (done == 0)
		done = make_strangers(r, index, born_sid, err);
	if (r->stream) {                /* what it has may be wanted by any task behind it */
		page_map_close(&m->pages.map);
	} else {
		loaded_pages_free(&m->pages);
		m->filled = false;
	}
	return done;
}

static int join_group(struct making *m, pid_t pgid, struct err *err)
{
	script_call_as(&m->vessel.script, OP_WANT_ZERO, SYS_setpgid, "setpgid", 0, (uint64_t)pgid);
	m->pgid = pgid;
	return vessel_run(&m->vessel, err);
}

static int place_in_group(struct restoring *r, size_t index, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index];
	struct making *m = &r->tasks[index], *leader = making_of(r, t->pgid);
	struct helper *h;
	int done = 0;

	if (t->pgid == m->pgid)
		return 0;
	if (!leader && !find_helper(r, t->pgid)) {
		done = make_helper(r, t->pgid, m, SYS_getpid, &h, err);
		if (done == 0) {
			script_call(&h->vessel.script, OP_WANT_ZERO, SYS_setpgid, 0, 0);
			done = vessel_run(&h->vessel, err);
		}
	}
	return done < 0 ? done : join_group(m, t->pgid, err);
}

static bool is_group(const struct snapshot *s, pid_t pid)
{
	for (size_t i = 0; i < s->tasks.len; i++)
		if (s->tasks.at[i].pgid == pid)
			return true;
	return false;
}

/* Leaders make their groups, members join them, and then leaders that are in another one now leave. */
static int make_groups(struct restoring *r, struct err *err)
{
	enum { LEAD, JOIN, LEAVE, ROUNDS };
	const struct snapshot *s = &r->snapshot;
	int done = 0;

	for (int round = LEAD; done == 0 && round < ROUNDS; round++)
		for (size_t i = 0; done == 0 && i < s->tasks.len; i++) {
			const struct task *t = &s->tasks.at[i];
			bool leads = is_group(s, t->pid);

			LOG_SCOPE("task %d", t->pid);
			if (round == LEAD && leads && r->tasks[i].pgid != t->pid)
				done = join_group(&r->tasks[i], t->pid, err);
			else if (round != LEAD && leads == (round == LEAVE))
				done = place_in_group(r, i, err);
		}
	return done;
}

static int choose_place(struct restoring *r, struct err *err)
{
	VEC(struct taddr_range) used = { 0 };
	struct proc_maps own = { 0 };
	unsigned int threads = 1, more = r->staged ? STAGED_THREADS : 0;
	int done = proc_maps(getpid(), &own, err);

	for (size_t i = 0; i < own.len; i++)
		vec_push(&used, ((struct taddr_range){ own.at[i].start, own.at[i].end }));
	for (size_t i = 0; i < r->snapshot.tasks.len; i++) {
		const struct task *t = &r->snapshot.tasks.at[i];

		if (t->threads.len + more > threads)
			threads = (unsigned int)t->threads.len + more;
		for (size_t k = 0; k < t->mm.vmas.len; k++)
			vec_push(&used, ((struct taddr_range){ t->mm.vmas.at[k].start, t->mm.vmas.at[k].end }));
	}
	if (done >= 0)
		done = blob_find_place(used.at, used.len, threads, &r->blob, err);
	r->threads_max = threads;
	proc_maps_free(&own);
	vec_free(&used);
	return done;
}

/* A root that led no session joins ours: what it and its like were in outside of the tree is replaced by ours. */
static void adopt_session(struct restoring *r)
{
	struct snapshot *s = &r->snapshot;
	pid_t sid = s->tasks.at[0].sid, pgid = s->tasks.at[0].pgid;

	if (sid == s->tasks.at[0].pid)
		return;
	for (size_t i = 0; i < s->tasks.len; i++) {
		if (s->tasks.at[i].sid == sid)
			s->tasks.at[i].sid = getsid(0);
		if (s->tasks.at[i].pgid == pgid && !snapshot_task(s, pgid))
			s->tasks.at[i].pgid = getpgrp();
	}
}

/*
 * Of a machine that runs out of memory those die first who have not come yet (children inherit it): they still run where they
 * were.  What kinds make of a task gives it its own.
 */
static int make_root(struct restoring *r, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[0];
	struct making *m = &r->tasks[0];
	struct err lost;
	int done = -EEXIST;

	for (int tries = 0; done == -EEXIST && tries < CLONE_TRIES; tries++) {
		if (tries > 0)
			nanosleep(&(struct timespec){ .tv_nsec = PID_NAP_NS }, NULL);
		done = vessel_create(t->pid, r->options->sibling, &r->blob, &m->vessel, err);
	}
	if (done < 0)
		return done;
	m->made = true;
	m->sid = getsid(0);
	m->pgid = getpgrp();
	if (r->staged && proc_set_oom_score_adj(t->pid, OOM_FIRST, &lost) < 0)
		log_info("%s", lost.text);
	return make_subtree(r, 0, NULL, err);
}

static bool is_zombie(pid_t pid)
{
	struct proc_stat st;

	return proc_stat(pid, 0, &st, &(struct err){ 0 }) == 0 && proc_is_dead(st.state);
}

/* All pids and tids must be free; one whose last owner is a zombie soon will be, if its parent is any good. */
static int wait_for_pids(struct restoring *r, struct err *err)
{
	uint64_t until_us = clock_us() + ZOMBIE_WAIT_US;

	for (size_t i = 0; i < r->snapshot.tasks.len; i++)
		for (size_t k = 0; k < r->snapshot.tasks.at[i].threads.len; k++) {
			pid_t tid = r->snapshot.tasks.at[i].threads.at[k].tid;

			while (kill(tid, 0) == 0 || errno != ESRCH) {
				if (!is_zombie(tid))
					return err_set(err, EEXIST, "pid %d is taken by another task", tid);
				if (clock_us() > until_us)
					return err_set(err, EEXIST, "pid %d is still taken by a zombie that nobody waits for", tid);
				nanosleep(&(struct timespec){ .tv_nsec = PID_NAP_NS }, NULL);
			}
		}
	return 0;
}

int make_tree(struct restoring *r, struct err *err)
{
	int done = wait_for_pids(r, err);

	if (done < 0)
		return done;

	if (r->snapshot.tasks.at[0].sid != r->snapshot.tasks.at[0].pid && !r->options->shell_job)
		return err_set(err, EINVAL, "the root task was no session leader: use --shell-job to restore it into this session");
	adopt_session(r);
	r->tasks = mem_new(r->snapshot.tasks.len * sizeof(*r->tasks));
	done = choose_place(r, err);
	if (done == 0)
		done = make_root(r, err);
	return done < 0 ? done : make_groups(r, err);
}

/* The stand-ins die; their parents wait for them, and forget. */
int end_helpers(struct restoring *r, struct err *err)
{
	int done = 0;

	for (size_t i = 0; done == 0 && i < r->helpers.len; i++) {
		struct helper *h = &r->helpers.at[i];
		struct vessel *parent = &making_of(r, h->parent)->vessel;

		vessel_kill(h->vessel.pid);
		script_call_as(&parent->script, OP_WANT_OK, SYS_wait4, "wait for a stand-in", (uint64_t)h->vessel.pid, 0,
			       __WALL, 0);
		done = vessel_run(parent, err);
	}
	return done;
}

/* ---- a tree that was made a while ago ---- */

static bool room_is_left(const struct restoring *r, const struct task *t)
{
	const struct blob_place *b = &r->blob;

	for (size_t i = 0; i < t->mm.vmas.len; i++)
		if (t->mm.vmas.at[i].start < b->at + b->len_bytes && b->at < t->mm.vmas.at[i].end)
			return false;
	return t->threads.len <= r->threads_max;
}

static int adopt_one(struct restoring *r, size_t index, struct making *from, const struct task *was, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index];
	struct making *m = &r->tasks[index];

	if (t->ppid != was->ppid || t->sid != was->sid || (was->state == TASK_ZOMBIE) > (t->state == TASK_ZOMBIE))
		return err_set(err, ESTALE, "it has got another parent or session meanwhile");
	*m = *from;
	m->pages = (struct loaded_pages){ 0 };
	loaded_pages_free(&from->pages);
	*from = (struct making){ 0 };
	return 0;
}

/* A task that was started meanwhile: cloned by its parent, and emptied. */
static int make_late(struct restoring *r, size_t index, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index];
	struct making *m = &r->tasks[index], *p = making_of(r, t->ppid);
	int done;

	if (!p || !p->made || (t->sid != t->pid && t->sid != p->sid))
		return err_set(err, ESTALE, "it was started meanwhile in a session that it can't join any more");
	done = make_child(r, index, &p->vessel, 0, p->sid, p->pgid, err);
	return done == 0 && t->sid == t->pid ? lead_session(m, err) : done;
}

/* Its parent waits for it, and forgets. */
static int end_one(struct restoring *r, struct restoring *before, size_t index, struct err *err)
{
	const struct task *was = &before->snapshot.tasks.at[index];
	struct making *p = making_of(r, was->ppid);

	vessel_kill(was->pid);
	vessel_free(&before->tasks[index].vessel);
	before->tasks[index] = (struct making){ 0 };
	if (!p || !p->made)
		return 0;
	script_call_as(&p->vessel.script, OP_WANT_ANY, SYS_wait4, "wait for a task that has ended", (uint64_t)was->pid, 0, __WALL, 0);
	return vessel_run(&p->vessel, err);
}

static int adopt_or_make(struct restoring *r, struct restoring *before, size_t index, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index], *was = snapshot_task(&before->snapshot, t->pid);
	struct making *from = was ? &before->tasks[was - before->snapshot.tasks.at] : NULL;

	LOG_SCOPE("task %d", t->pid);
	if (!room_is_left(r, t))
		return err_set(err, ESTALE, "it has %zu threads and memory in new places: there is no room left to make it", t->threads.len);
	return from && from->made ? adopt_one(r, index, from, was, err) : make_late(r, index, err);
}

int adopt_tree(struct restoring *r, struct restoring *before, struct err *err)
{
	int done = 0;

	adopt_session(r);
	r->blob = before->blob;
	r->threads_max = before->threads_max;
	r->tasks = mem_new(r->snapshot.tasks.len * sizeof(*r->tasks));
	for (size_t i = 0; done == 0 && i < r->snapshot.tasks.len; i++)
		done = adopt_or_make(r, before, i, err);
	for (size_t i = before->snapshot.tasks.len; done == 0 && i-- > 0;)
		if (before->tasks[i].made)
			done = end_one(r, before, i, err);
	return done < 0 ? done : make_groups(r, err);
}
