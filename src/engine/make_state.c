/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/restoring.h"
#include "kernel/ptrace.h"

#define ID_NAP_NS  1000000
#define ID_WAIT_US 2000000u

#define KINDS_OPS        256u           /* more than all task kinds take before they ask for room themselves */
#define KINDS_DATA_BYTES (16u * 1024)

/* ---- mappings' last touches: after all clones, for they are not inherited, or not wanted to be ---- */

static int advise(struct vessel *v, const struct vma *m, struct err *err)
{
	const uint64_t done_already = 1ull << MADV_HUGEPAGE | 1ull << MADV_NOHUGEPAGE;
	int done = 0;

	for (unsigned int advice = 0; done == 0 && advice < 32; advice++) {
		if (!(m->madvise & ~done_already & 1ull << advice))
			continue;
		done = vessel_room(v, 1, 0, err);
		if (done == 0)
			script_call_as(&v->script, advice == MADV_MERGEABLE ? OP_WANT_ANY : OP_WANT_ZERO, SYS_madvise,
				       "madvise", m->start, m->end - m->start, advice);
	}
	return done;
}

static int finish_mappings(struct vessel *v, const struct task *t, struct err *err)
{
	int done = 0;

	for (size_t i = 0; done == 0 && i < t->mm.vmas.len; i++) {
		const struct vma *m = &t->mm.vmas.at[i];

		if (m->status & (VMA_VVAR | VMA_VDSO))
			continue;
		done = advise(v, m, err);
		if (done == 0 && m->flags & MAP_LOCKED) {
			done = vessel_room(v, 1, 0, err);
			script_call(&v->script, OP_WANT_ZERO, SYS_mlock2, m->start, m->end - m->start,
				    m->lock_on_fault ? 1 /* MLOCK_ONFAULT */ : 0);
		}
	}
	return done;
}

/* ---- descriptors ---- */

/* Closes first..end-1. */
static int close_range_of(struct vessel *v, unsigned int first, unsigned int end, struct err *err)
{
	int done = first < end ? vessel_room(v, 1, 0, err) : 0;

	if (done == 0 && first < end)
		script_call(&v->script, OP_WANT_ZERO, SYS_close_range, first, end - 1, 0);
	return done;
}

static int place_fds(struct restoring *r, struct vessel *v, const struct task *t, struct err *err)
{
	unsigned int next = 0;
	int done = 0;

	for (size_t i = 0; done == 0 && i < t->fds.len; i++) {
		const struct fd_slot *slot = &t->fds.at[i];
		int from = made_fd(r, slot->file);

		if (from < 0)
			return err_set(err, EIO, "file %u of descriptor %d was not made", slot->file, slot->fd);
		done = vessel_room(v, 1, 0, err);
		if (done == 0)
			script_call_value(&v->script, (uint64_t)slot->fd, SYS_dup3, "dup3", (uint64_t)from,
					  (uint64_t)slot->fd, slot->cloexec ? O_CLOEXEC : 0);
		if (done == 0)
			done = close_range_of(v, next, (unsigned int)slot->fd, err);
		next = (unsigned int)slot->fd + 1;
	}
	return done < 0 ? done : close_range_of(v, next, ~0u, err);
}

/* The pidfd of ferry that every vessel has gives it ferry's descriptors: one at a time, at the lowest number. */
static int bring_one(struct restoring *r, struct vessel *v, int fd, struct err *err)
{
	int done = fd < 0 ? 0 : vessel_room(v, 3, 0, err);

	if (done < 0 || fd < 0)
		return done;
	script_call_value(&v->script, 0, SYS_pidfd_getfd, "take a descriptor", (uint64_t)r->self, (uint64_t)fd, 0);
	script_call_value(&v->script, (uint64_t)fd, SYS_dup3, "dup3", 0, (uint64_t)fd, O_CLOEXEC);
	script_call(&v->script, OP_WANT_ZERO, SYS_close, 0);
	return 0;
}

int bring_fds(struct restoring *r, size_t index, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index];
	struct vessel *v = &r->tasks[index].vessel;
	int done = vessel_room(v, 1, 0, err);

	LOG_SCOPE("task %d > descriptors", t->pid);
	script_call(&v->script, OP_WANT_ANY, SYS_close, 0);
	for (size_t i = 0; done == 0 && i < t->fds.len; i++)
		done = bring_one(r, v, made_fd(r, t->fds.at[i].file), err);
	for (size_t i = 0; done == 0 && i < t->mm.vmas.len; i++) {
		const struct vma *m = &t->mm.vmas.at[i];

		if (m->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED) && !m->reopened)
			done = bring_one(r, v, made_fd(r, (uint32_t)m->object), err);
	}
	for (size_t i = 0; done == 0 && i < r->maker.shmems.len; i++)
		done = bring_one(r, v, r->maker.shmems.at[i], err);
	for (size_t i = 0; done == 0 && i < r->maker.mapped.len; i++)
		done = bring_one(r, v, r->maker.mapped.at[i].fd, err);
	if (done == 0)
		done = bring_one(r, v, made_fd(r, t->root_file), err);
	if (done == 0)
		done = bring_one(r, v, made_fd(r, t->cwd_file), err);
	if (done == 0)
		done = bring_one(r, v, made_fd(r, t->mm.exe_file), err);
	return done < 0 ? done : vessel_run(v, err);
}

static bool is_our_root(int fd)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat("/", &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int place_dirs(struct restoring *r, struct vessel *v, const struct task *t, struct err *err)
{
	int root = made_fd(r, t->root_file), done = vessel_room(v, 4, 64, err);

	if (done < 0)
		return done;
	if (!is_our_root(root)) {
		script_call(&v->script, OP_WANT_ZERO, SYS_fchdir, (uint64_t)root);
		script_call(&v->script, OP_WANT_ZERO, SYS_chroot, script_data(&v->script, ".", 2));
	}
	script_call(&v->script, OP_WANT_ZERO, SYS_fchdir, (uint64_t)made_fd(r, t->cwd_file));
	script_call(&v->script, OP_WANT_OK, SYS_umask, t->umask);
	return 0;
}

/* ---- threads ---- */

static int clone_threads(struct vessel *v, const struct task *t, size_t from, struct err *err)
{
	int done = 0;

	for (size_t i = from; done == 0 && i < t->threads.len; i++) {
		const struct thread *th = &t->threads.at[i];
		struct clone_args args = {
			.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
				 CLONE_PTRACE | CLONE_CHILD_CLEARTID,
			.child_tid = th->clear_tid,
			.set_tid_size = 1,
		};

		done = vessel_room(v, 1, sizeof(args) + 64, err);
		args.set_tid = script_data(&v->script, &th->tid, sizeof(th->tid));
		script_call_value(&v->script, (uint64_t)th->tid, SYS_clone3, "make a thread with its id",
				  script_data(&v->script, &args, sizeof(args)), sizeof(args));
	}
	return done < 0 ? done : vessel_run(v, err);
}

/* How many of its threads are there; they were made in their order. */
static size_t count_threads(const struct task *t)
{
	size_t n = 1;
	char path[64];

	for (; n < t->threads.len; n++) {
		snprintf(path, sizeof(path), "/proc/%d/task/%d", t->pid, t->threads.at[n].tid);
		if (access(path, F_OK) < 0)
			break;
	}
	return n;
}

/* An id is taken until the last moment of the thread that had it, which may be long: one of SCHED_IDLE. */
static int make_threads(struct vessel *v, const struct task *t, struct err *err)
{
	uint64_t until_us = clock_us() + ID_WAIT_US;
	int done = clone_threads(v, t, 1, err);

	while (done == -EEXIST && clock_us() < until_us) {
		nanosleep(&(struct timespec){ .tv_nsec = ID_NAP_NS }, NULL);
		done = clone_threads(v, t, count_threads(t), err);
	}
	for (size_t i = 1; done == 0 && i < t->threads.len; i++)
		done = vessel_catch_thread(t->threads.at[i].tid, err);
	return done;
}

static int write_thread(struct vessel *v, const struct task *t, size_t index, struct script *s, struct err *err)
{
	const struct thread *th = &t->threads.at[index];
	int done = 0;

	LOG_SCOPE("thread %d", th->tid);
	for (size_t k = 0; done == 0 && thread_kinds[k]; k++)
		if (thread_kinds[k]->make)
			done = thread_kinds[k]->make(t, th, s, err);
	return done < 0 ? done : vessel_start(v, th->tid, s, err);
}

/* All threads' scripts at once; the leader's is one of them. */
static int run_threads(struct vessel *v, const struct task *t, struct err *err)
{
	struct script *scripts = mem_new(t->threads.len * sizeof(*scripts));
	size_t started = 0;
	int done = 0;

	for (size_t i = 1; i < t->threads.len; i++)
		vessel_thread_script(v, (unsigned int)i, &scripts[i]);
	for (; done == 0 && started < t->threads.len; started++)
		done = write_thread(v, t, started, started == 0 ? &v->script : &scripts[started], err);
	for (size_t i = 0; done == 0 && i < started; i++) {
		LOG_SCOPE("thread %d", t->threads.at[i].tid);
		done = vessel_wait(v, t->threads.at[i].tid, i == 0 ? &v->script : &scripts[i], err);
	}
	for (size_t i = 1; i < t->threads.len; i++)
		script_free(&scripts[i]);
	free(scripts);
	script_clear(&v->script);
	return done;
}

static int run_task_kinds(struct vessel *v, const struct task *t, enum task_stage stage, struct err *err)
{
	int done = vessel_room(v, KINDS_OPS, KINDS_DATA_BYTES, err);

	for (size_t k = 0; done == 0 && task_kinds[k]; k++)
		if (task_kinds[k]->make && task_kinds[k]->stage == stage)
			done = task_kinds[k]->make(t, v, err);
	return done < 0 ? done : vessel_run(v, err);
}

/* ---- the dead and the stopped ---- */

/* Dies as it died: for the tracer first (here), then it is its parent's zombie. */
static int make_zombie(struct restoring *r, size_t index, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index];
	struct vessel *v = &r->tasks[index].vessel;
	const struct rlimit no_core = { 0, 0 };
	int signal = t->exit_code & 0x7f, status, done;

	script_call(&v->script, OP_WANT_ZERO, SYS_setrlimit, RLIMIT_CORE, script_data(&v->script, &no_core, sizeof(no_core)));
	script_call(&v->script, OP_WANT_ZERO, SYS_prctl, 15 /* PR_SET_NAME */,
		    script_data(&v->script, t->threads.at[0].comm, sizeof(t->threads.at[0].comm)));
	done = vessel_run(v, err);
	if (done == 0 && signal == 0) {
		script_call(&v->script, OP_WANT_ZERO, SYS_exit_group, (uint64_t)(t->exit_code >> 8 & 0xff));
		done = vessel_start(v, v->pid, &v->script, err);
	} else if (done == 0) {
		done = ptrace_set_sigmask(v->pid, 0, err);
		if (done == 0)
			done = ptrace_go(PTRACE_CONT, v->pid, signal, err);
	}
	if (done < 0)
		return done;
	while (waitpid(v->pid, &status, __WALL) < 0 && errno == EINTR)
		;
	if (WIFSTOPPED(status) || (status & 0x7f) != signal)
		return err_set(err, EIO, "could not die as it did (status %#x)", (unsigned int)status);
	r->tasks[index].dead = true;
	return 0;
}

/* A call that was interrupted is given to the kernel as such: it makes it again, or a signal ends it. */
static struct user_regs_struct registers_of(const struct thread *th)
{
	struct user_regs_struct r = th->regs;

	if (th->interrupted) {
		r.orig_rax = r.rax;
		r.rax = (uint64_t)-(int64_t)th->interrupted;
		r.rip += 2;
	}
	return r;
}

static int set_registers(const struct task *t, struct err *err)
{
	int done = 0;

	for (size_t i = 0; done == 0 && i < t->threads.len; i++) {
		const struct thread *th = &t->threads.at[i];
		const struct user_regs_struct regs = registers_of(th);

		done = ptrace_set_regs(th->tid, &regs, err);
		if (done == 0)
			done = ptrace_set_xsave(th->tid, th->xsave, th->xsave_len, err);
		if (done == 0)
			done = ptrace_set_sigmask(th->tid, th->mask, err);
	}
	return done;
}

int make_state(struct restoring *r, size_t index, struct err *err)
{
	const struct task *t = &r->snapshot.tasks.at[index];
	struct vessel *v = &r->tasks[index].vessel;
	int done;

	LOG_SCOPE("task %d", t->pid);
	if (t->state == TASK_ZOMBIE)
		return make_zombie(r, index, err);
	done = finish_mappings(v, t, err);
	if (done == 0)
		done = place_dirs(r, v, t, err);
	if (done == 0 && !snapshot_shares_table(&r->snapshot, t))
		done = place_fds(r, v, t, err);
	if (done == 0)
		done = run_task_kinds(v, t, STAGE_ALONE, err);
	if (done == 0)
		done = make_threads(v, t, err);
	if (done == 0)
		done = run_task_kinds(v, t, STAGE_THREADS, err);
	if (done == 0)
		done = run_threads(v, t, err);
	if (done == 0)
		done = run_task_kinds(v, t, STAGE_LAST, err);
	if (done == 0)
		done = vessel_leave(v, err);
	return done < 0 ? done : set_registers(t, err);
}

static int each_thread(struct restoring *r, int (*call)(pid_t tid, struct err *err), struct err *err)
{
	int done = 0;

	for (size_t i = r->snapshot.tasks.len; done == 0 && i-- > 0;)
		for (size_t k = r->snapshot.tasks.at[i].threads.len; done == 0 && !r->tasks[i].dead && k-- > 0;)
			done = call(r->snapshot.tasks.at[i].threads.at[k].tid, err);
	return done;
}

/* From here on it outlives ferry. */
static int set_free(pid_t tid, struct err *err)
{
	return ptrace_set_options(tid, 0, err);
}

/*
 * Two rounds, for the first is quick: it takes a fraction of a microsecond each, and only a death of ferry in it
 * leaves a part of the tree.  After it the kernel lets all go when ferry does not.
 */
int let_go(struct restoring *r, struct err *err)
{
	int done;

	for (size_t i = 0; i < r->snapshot.tasks.len; i++)
		if (r->snapshot.tasks.at[i].state == TASK_STOPPED && kill(r->snapshot.tasks.at[i].pid, SIGSTOP) < 0)
			return err_sys(err, "stop task %d", r->snapshot.tasks.at[i].pid);
	done = each_thread(r, set_free, err);
	return done < 0 ? done : each_thread(r, ptrace_detach, err);
}
