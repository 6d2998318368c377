/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "engine/escort.h"
#include "kernel/proc.h"
#include "kernel/proc_task.h"
#include "kernel/ptrace.h"
#include "kernel/sys.h"

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | \
		 PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT)
#define ROBUST_MAX   2048u      /* as many as the kernel follows */
#define DYING_US     1000000u   /* on a busy machine it may not get to it at once */
#define END_US       1000000u   /* a thread that does not stop by then is let go when ferry ends */

/* By number: this C library may be older. */
enum { NR_PIDFD_SEND_SIGNAL = 424, NR_PROCESS_MADVISE = 440, NR_FUTEX_LOCK_PI2 = 13, ADVICE_DONTNEED_LOCKED = 24, ADVICE_GUARD_INSTALL = 102 };

/* ---- who is who ---- */

static struct escorted *find(const struct escort *e, pid_t tid)
{
	for (size_t i = 0; i < e->threads.len; i++)
		if (e->threads.at[i].tid == tid)
			return &e->threads.at[i];
	return NULL;
}

static pid_t process_of(pid_t tid)
{
	struct proc_status status;
	pid_t tgid;

	if (proc_status(tid, 0, &status, &(struct err){ 0 }) < 0)
		return 0;
	tgid = status.tgid;
	proc_status_free(&status);
	return tgid;
}

/* One that is new.  NULL: it has a memory of its own, or is gone, and is not traced any more. */
static struct escorted *meet(struct escort *e, pid_t tid)
{
	pid_t process = process_of(tid);

	for (size_t i = 0; process && i < e->guard->tasks.len; i++) {
		struct guarded *t = e->guard->tasks.at[i];

		if (!t->replaced && sys_kcmp(tid, t->pid, SYS_KCMP_VM, 0, 0, &(struct err){ 0 }) == 0) {
			vec_push(&e->threads, ((struct escorted){ .tid = tid, .memory = t, .member = t->pid == process,
								  .call = SYS_restart_syscall }));
			return &e->threads.at[e->threads.len - 1];
		}
	}
	ptrace(PTRACE_DETACH, tid, NULL, NULL);
	return NULL;
}

static void leave(struct escort *e, struct escorted *t)
{
	*t = e->threads.at[--e->threads.len];
}

static bool is_last(const struct escort *e, const struct escorted *t)
{
	for (size_t i = 0; i < e->threads.len; i++)
		if (e->threads.at[i].memory == t->memory && e->threads.at[i].member && &e->threads.at[i] != t)
			return false;
	return true;
}

/* ---- before a system call ---- */

static bool drops(uint64_t advice)
{
	return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE ||
	       advice == ADVICE_DONTNEED_LOCKED || advice == ADVICE_GUARD_INSTALL;
}

/* Futexes whose words the kernel itself writes: it does not wait for us there, but fails. */
static bool writes_futex(uint64_t op)
{
	switch (op & FUTEX_CMD_MASK) {
	case FUTEX_WAKE_OP: case FUTEX_LOCK_PI: case FUTEX_UNLOCK_PI: case FUTEX_TRYLOCK_PI:
	case FUTEX_WAIT_REQUEUE_PI: case FUTEX_CMP_REQUEUE_PI: case NR_FUTEX_LOCK_PI2:
		return true;
	}
	return false;
}

static void let_futex(struct escort *e, struct guarded *m, const uint64_t *arg)
{
	struct err ignored;     /* no memory there: the kernel will say so */

	if (!writes_futex(arg[1]))
		return;
	guard_let_write(e->guard, m, arg[0], &ignored);
	guard_let_write(e->guard, m, arg[4], &ignored);
}

/* Ranges that the call will drop are put aside.  1: it drops what can't be told, or all; it has to wait. */
static int before_call(const struct escorted *t, uint64_t nr, const uint64_t *a, struct err *err)
{
	struct guarded *m = t->memory;
	int r = 0;

	switch (nr) {
	case SYS_munmap:
		return guard_keep(m, a[0], a[0] + a[1], err);
	case SYS_madvise:
		return drops(a[2]) ? guard_keep(m, a[0], a[0] + a[1], err) : 0;
	case SYS_mmap:
		return a[3] & MAP_FIXED ? guard_keep(m, a[0], a[0] + a[1], err) : 0;
	case SYS_mremap:
		r = guard_give_up(m, a[0], a[0] + a[1], err);
		return r == 0 && a[3] & MREMAP_FIXED ? guard_keep(m, a[4], a[4] + a[2], err) : r;
	case SYS_brk:
		return a[0] != 0 && a[0] < m->brk ? guard_keep(m, a[0], m->brk, err) : 0;
	case SYS_shmat:
		return (a[2] & SHM_REMAP) != 0;
	case SYS_kill: case SYS_tkill: case SYS_rt_sigqueueinfo:
		return a[1] == SIGKILL;         /* maybe at one of the tree */
	case SYS_tgkill: case SYS_rt_tgsigqueueinfo:
		return a[2] == SIGKILL;
	case NR_PIDFD_SEND_SIGNAL:
		return a[1] == SIGKILL;
	case SYS_execve: case SYS_execveat: case SYS_exit_group:
		return t->member;
	case SYS_remap_file_pages: case NR_PROCESS_MADVISE:
	case SYS_userfaultfd: case SYS_io_uring_setup:  /* other doors to the same */
		return 1;
	}
	return 0;
}

/* true: the thread stays where it is. */
static bool at_call(struct escort *e, struct escorted *t)
{
	struct __ptrace_syscall_info info;
	struct err err;
	int r;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, t->tid, sizeof(info), &info) < 0 || info.op != PTRACE_SYSCALL_INFO_ENTRY)
		return false;
	if (info.arch != AUDIT_ARCH_X86_64)
		return e->guard->holds;         /* 32-bit calls by 64-bit code: nobody tells what they do */
	if (info.entry.nr != SYS_restart_syscall)
		t->call = info.entry.nr;
	if (info.entry.nr == SYS_set_tid_address)
		t->clear_at = info.entry.args[0];
	if (info.entry.nr == SYS_futex)
		let_futex(e, t->memory, info.entry.args);
	if (!e->guard->holds)
		return false;
	r = before_call(t, info.entry.nr, info.entry.args, &err);
	if (r < 0)
		log_debug("thread %d, before system call %llu: %s", t->tid, (unsigned long long)info.entry.nr, err.text);
	return r != 0;
}

/* ---- before an end ---- */

/* The kernel marks the locks that a thread dies with, and does not wait for us there. */
static void let_robust(struct escort *e, const struct escorted *t)
{
	uint64_t at, head, entry[3];    /* the list's next, where from an entry the word is, and one being taken */
	struct err err;
	size_t len;

	if (sys_get_robust_list(t->tid, &head, &len, &err) < 0 || head == 0 ||
	    sys_read_memory(t->tid, head, entry, sizeof(entry), &err) < 0)
		return;
	if (entry[2])
		guard_let_write(e->guard, t->memory, (entry[2] & ~1ull) + entry[1], &err);
	at = entry[0] & ~1ull;
	for (unsigned int i = 0; i < ROBUST_MAX && at != head; i++) {
		guard_let_write(e->guard, t->memory, at + entry[1], &err);
		if (sys_read_memory(t->tid, at, &at, sizeof(at), &err) < 0)
			return;
		at &= ~1ull;
	}
}

/*
 * Nor does it at the word that it clears for who joins the thread: a dying task has no faults served.  Of threads that
 * were there before us nobody says where that is; but the word has the thread's id, and is near the register by which
 * a thread finds what is its own.
 */
static void let_tid(struct escort *e, const struct escorted *t)
{
	struct user_regs_struct regs;
	uint32_t words[PAGE_BYTES / sizeof(uint32_t)];
	struct err err;
	taddr page;

	if (t->clear_at)
		guard_let_write(e->guard, t->memory, t->clear_at, &err);
	if (ptrace_get_regs(t->tid, &regs, &err) < 0)
		return;
	page = regs.fs_base / PAGE_BYTES * PAGE_BYTES;
	for (taddr end = page + 2 * PAGE_BYTES; page < end; page += PAGE_BYTES) {
		if (sys_read_memory(t->tid, page, words, sizeof(words), &err) < 0)
			return;
		for (size_t i = 0; i < ARRAY_LEN(words); i++)
			if (words[i] == (uint32_t)t->tid) {
				guard_let_write(e->guard, t->memory, page, &err);
				break;
			}
	}
}

static void let_end(struct escort *e, const struct escorted *t)
{
	let_robust(e, t);
	let_tid(e, t);
}

/* As long as memory is being protected, what was let go may be protected again: not before the thread has ended. */
static void see_it_end(pid_t tid)
{
	const uint64_t until = clock_us() + DYING_US;
	siginfo_t si = { 0 };

	ptrace(PTRACE_CONT, tid, NULL, NULL);
	while (waitid(P_PID, (id_t)tid, &si, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 && si.si_pid == 0 && clock_us() < until)
		nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
}

/* true: it stays at the door, or has gone. */
static bool at_exit(struct escort *e, const struct escorted *t)
{
	unsigned long code = 0;

	if (!e->guard->holds) {
		pthread_mutex_lock(&e->guard->protecting);
		let_end(e, t);
		if (t->tid != t->memory->pid)   /* for that one nobody waits */
			see_it_end(t->tid);
		pthread_mutex_unlock(&e->guard->protecting);
		return t->tid != t->memory->pid;
	}
	let_end(e, t);
	ptrace(PTRACE_GETEVENTMSG, t->tid, NULL, &code);
	return t->member && (code & 0x7f || is_last(e, t));
}

/* A new thread: where it will leave its word was said by who made it. */
static void at_clone(struct escort *e, const struct escorted *parent)
{
	struct { uint64_t flags, pidfd, child_tid; } args = { 0 };
	struct user_regs_struct regs;
	unsigned long tid = 0;
	struct escorted *t;
	struct err err;

	if (ptrace(PTRACE_GETEVENTMSG, parent->tid, NULL, &tid) < 0 || ptrace_get_regs(parent->tid, &regs, &err) < 0)
		return;
	if (regs.orig_rax == SYS_clone3 && sys_read_memory(parent->tid, regs.rdi, &args, sizeof(args), &err) < 0)
		return;
	if (regs.orig_rax == SYS_clone) {
		args.flags = regs.rdi;
		args.child_tid = regs.r10;
	}
	if (!(args.flags & CLONE_THREAD) || !(args.flags & CLONE_CHILD_CLEARTID))
		return;
	t = find(e, (pid_t)tid);
	if (t)
		t->clear_at = args.child_tid;
	else
		vec_push(&e->threads, ((struct escorted){ .tid = (pid_t)tid, .memory = parent->memory,
							  .member = parent->member, .clear_at = args.child_tid,
							  .call = SYS_restart_syscall }));
}

/* It is reported under the process's number; its other threads are no more. */
static void at_exec(struct escort *e, pid_t tid)
{
	struct escorted *t = find(e, tid);
	struct guarded *m = t->memory;
	bool member = t->member;

	if (member)
		m->replaced = true;
	for (size_t i = e->threads.len; i-- > 0;)
		if (e->threads.at[i].tid == tid || (member && e->threads.at[i].memory == m && e->threads.at[i].member))
			leave(e, &e->threads.at[i]);
	ptrace(PTRACE_DETACH, tid, NULL, NULL);
}

static void at_end(struct escort *e, struct escorted *t)
{
	if (e->guard->holds && t->member && is_last(e, t))
		e->lost = t->memory->pid;
	leave(e, t);
}

/* ---- stops ---- */

static void at_stop(struct escort *e, struct escorted *t, int status)
{
	int event = status >> 16, signal = WSTOPSIG(status), request = PTRACE_SYSCALL;

	if (event == PTRACE_EVENT_EXEC) {
		at_exec(e, t->tid);
		return;
	}
	if (event == PTRACE_EVENT_CLONE) {
		pid_t tid = t->tid;

		at_clone(e, t);
		t = find(e, tid);       /* the list may have moved */
	}
	if (event == PTRACE_EVENT_STOP && signal != SIGTRAP)
		request = PTRACE_LISTEN;        /* job control */
	else if (event == PTRACE_EVENT_EXIT)
		t->held = at_exit(e, t);
	else if (event == 0 && signal == PTRACE_SYSCALL_STOP)
		t->held = at_call(e, t);
	if (!t->held)
		ptrace(request, t->tid, NULL, event == 0 && signal != PTRACE_SYSCALL_STOP ? (long)signal : 0l);
}

/* 1: something was done; 0: nobody stands; -1: there is nobody. */
static int serve_one(struct escort *e)
{
	int status;
	pid_t tid = waitpid(-1, &status, __WALL | __WNOTHREAD | WNOHANG);
	struct escorted *t;

	if (tid <= 0)
		return tid == 0 || errno == EINTR ? 0 : -1;
	t = find(e, tid);
	if (!t && WIFSTOPPED(status))
		t = meet(e, tid);
	if (t && WIFSTOPPED(status))
		at_stop(e, t, status);
	else if (t)
		at_end(e, t);
	return 1;
}

struct working {
	escort_work *work;
	void *arg;
	char scope[200];
	int wake;                       /* who serves */
	_Atomic bool done;
	int r;
	struct err err;
};

static void *work(void *arg)
{
	struct working *w = arg;
	LOG_SCOPE("%s", w->scope);

	w->r = w->work(w->arg, &w->err);
	w->done = true;
	eventfd_write(w->wake, 1);
	return NULL;
}

/* There may be always one that stands. */
static void serve_until_done(struct escort *e, const struct working *w)
{
	struct pollfd polls[2] = { { w->wake, POLLIN, 0 }, { e->signals, POLLIN, 0 } };
	struct signalfd_siginfo info;

	while (!w->done) {
		if (serve_one(e) > 0)
			continue;
		poll(polls, 2, -1);
		if (polls[1].revents & POLLIN)
			(void)!read(e->signals, &info, sizeof(info));
	}
}

int escort_while(struct escort *e, escort_work *what, void *arg, struct err *err)
{
	struct working w = { .work = what, .arg = arg };
	own_fd wake = eventfd(0, EFD_CLOEXEC);
	pthread_t thread;
	int r;

	w.wake = wake;
	log_scope_copy(w.scope, sizeof(w.scope));
	r = wake < 0 ? errno : pthread_create(&thread, NULL, work, &w);
	if (r > 0)
		return err_set(err, r, "start a thread: %s", strerror(r));
	serve_until_done(e, &w);
	pthread_join(thread, NULL);
	if (e->lost)
		return err_set(err, ESRCH, "task %d was killed before its memory was copied", e->lost);
	if (w.r < 0)
		*err = w.err;
	return w.r;
}

/* ---- from one state to another ---- */

int escort_begin(struct escort *e, struct guard *guard, struct err *err)
{
	sigset_t chld;

	*e = (struct escort){ .guard = guard, .signals = -1 };
	signal(SIGCHLD, SIG_DFL);       /* ignored, it would not tell of stops */
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	pthread_sigmask(SIG_BLOCK, &chld, &e->mask);
	e->signals = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	return e->signals < 0 ? err_sys(err, "wait for stops") : 0;
}

/* That it stopped in; the kernel will make it again as restart_syscall. */
static uint64_t call_of(pid_t tid)
{
	struct user_regs_struct regs;

	if (ptrace_get_regs(tid, &regs, &(struct err){ 0 }) < 0 || (int64_t)regs.orig_rax < 0)
		return SYS_restart_syscall;
	return regs.orig_rax;
}

int escort_go(struct escort *e, struct frozen_tree *tree, struct err *err)
{
	int r = 0;

	reaper_free(TAKE_PTR(tree->reaper));
	e->on_its_way = true;
	for (size_t i = 0; i < tree->tasks.len; i++) {
		const struct frozen_task *t = &tree->tasks.at[i];

		for (size_t k = 0; k < t->tids.len; k++)
			vec_push(&e->threads, ((struct escorted){
				.tid = t->tids.at[k], .memory = guard_of(e->guard, t->pid), .member = true,
				.call = call_of(t->tids.at[k]) }));
	}
	for (size_t i = e->threads.len; r == 0 && i-- > 0;) {
		r = ptrace_set_options(e->threads.at[i].tid, OPTIONS, err);
		if (r == 0)
			r = ptrace_go(PTRACE_SYSCALL, e->threads.at[i].tid, 0, err);
	}
	return r;
}

static void at_end_of_thread(void *arg, pid_t tid)
{
	struct escort *e = arg;
	struct escorted *t = find(e, tid), other = { .tid = tid };

	if (!t)
		other.memory = guard_of(e->guard, process_of(tid));
	t = t ? t : &other;
	if (t->memory)
		let_end(e, t);
}

int escort_freeze(struct escort *e, pid_t root, unsigned int timeout_s, struct frozen_tree *ret_tree, struct err *err)
{
	int r;

	for (size_t i = 0; i < e->threads.len; i++)
		if (e->threads.at[i].held)
			ptrace(PTRACE_SYSCALL, e->threads.at[i].tid, NULL, NULL);
	r = freeze_traced(root, timeout_s * 1000000ull, at_end_of_thread, e, ret_tree, err);
	for (size_t i = 0; r == 0 && i < e->threads.len; i++)
		if (e->threads.at[i].call != SYS_restart_syscall)
			vec_push(&ret_tree->calls, ((struct seen_call){ e->threads.at[i].tid, e->threads.at[i].call }));
	e->threads.len = 0;
	e->on_its_way = false;
	return r;
}

/* In whatever stop it is found. */
static void let_go(struct escort *e, struct escorted *t, int status)
{
	bool by_signal = status >> 16 == 0 && WSTOPSIG(status) != PTRACE_SYSCALL_STOP;

	ptrace(PTRACE_DETACH, t->tid, NULL, by_signal ? (long)WSTOPSIG(status) : 0l);
	leave(e, t);
}

void escort_end(struct escort *e)
{
	uint64_t until = clock_us() + END_US;

	if (!e->on_its_way)
		return;
	for (size_t i = e->threads.len; i-- > 0;)
		if (e->threads.at[i].held)
			let_go(e, &e->threads.at[i], SIGTRAP << 8 | PTRACE_EVENT_STOP << 16);
		else
			ptrace(PTRACE_INTERRUPT, e->threads.at[i].tid, NULL, NULL);
	while (e->threads.len > 0 && clock_us() < until) {
		int status;
		pid_t tid = waitpid(-1, &status, __WALL | __WNOTHREAD | WNOHANG);
		struct escorted *t = tid > 0 ? find(e, tid) : NULL;

		if (tid < 0 && errno == ECHILD)
			break;
		if (tid > 0 && WIFSTOPPED(status) && !t)
			ptrace(PTRACE_DETACH, tid, NULL, NULL);
		else if (t && WIFSTOPPED(status))
			let_go(e, t, status);
		else if (t)
			leave(e, t);
		else
			sched_yield();
	}
	e->on_its_way = false;
}

void escort_free(struct escort *e)
{
	escort_end(e);
	vec_free(&e->threads);
	if (e->signals < 0)
		return;
	own_fd_drop(&e->signals);
	pthread_sigmask(SIG_SETMASK, &e->mask, NULL);
	e->signals = -1;
}
