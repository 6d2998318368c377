/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/own.h"
#include "inject/vessel.h"
#include "kernel/proc.h"
#include "kernel/ptrace.h"

#define PAGE            4096u
#define TASK_END        0x7ffffffff000ull       /* four-level page tables */
#define LEADER_DATA     (192u * 1024)
#define LEADER_OPS      (192u * 1024)
#define LEADER_AREA     (LEADER_DATA + LEADER_OPS + PAGE)
#define THREAD_DATA     (3u * 1024)
#define THREAD_OPS      (4u * 1024)
#define FREED_WAIT_US   100000u
#define THREAD_AREA     (8u * 1024)
#define STACK_BYTES     512u                    /* the interpreter uses less than 64 */
#define VESSEL_MASK     (~(1ull << (SIGTRAP - 1)))
#define VESSEL_OPTIONS  (PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD)

extern const uint8_t inject_blob_start[], inject_blob_end[];

int vdso_find(const struct proc_maps *maps, struct vdso *ret_vdso, struct err *err)
{
	struct vdso v = { 0 };
	bool code = false;

	for (size_t i = 0; i < maps->len; i++) {
		const struct proc_map *m = &maps->at[i];
		bool is_code = strcmp(m->name, "[vdso]") == 0;

		if (!is_code && strncmp(m->name, "[vvar", 5) != 0)
			continue;
		if (v.parts == VDSO_PARTS_MAX)
			return err_set(err, EBADMSG, "the vdso has over %u parts", VDSO_PARTS_MAX);
		if (v.parts > 0 && v.part[v.parts - 1].start + v.part[v.parts - 1].len_bytes != m->start)
			return err_set(err, EBADMSG, "the vdso is torn apart at %#llx", (unsigned long long)m->start);
		v.part[v.parts++] = (struct vdso_part){ m->start, m->end - m->start, is_code };
		code |= is_code;
	}
	if (!code)
		return err_set(err, ENOENT, "there is no [vdso]");
	*ret_vdso = v;
	return 0;
}

uint64_t vdso_span(const struct vdso *v)
{
	const struct vdso_part *last = &v->part[v->parts - 1];

	return last->start + last->len_bytes - v->part[0].start;
}

uint64_t vdso_code_offset(const struct vdso *v)
{
	for (unsigned int i = 0; i < v->parts; i++)
		if (v->part[i].code)
			return v->part[i].start - v->part[0].start;
	return 0;
}

int blob_find_place(const struct taddr_range *ranges, size_t count, unsigned int threads,
		    struct blob_place *ret_place, struct err *err)
{
	const uint64_t hop_bytes = 64 * PAGE, margin = 2u << 20;
	uint64_t len = PAGE + LEADER_AREA + (uint64_t)threads * THREAD_AREA;
	taddr at = 0x10000000;

	len = (len + PAGE - 1) & ~(uint64_t)(PAGE - 1);
	while (at < TASK_END - len - hop_bytes - margin) {
		taddr hit = 0;

		for (size_t i = 0; i < count; i++)
			if (ranges[i].start < at + len + hop_bytes + margin && ranges[i].end > at - margin &&
			    ranges[i].end > hit)
				hit = ranges[i].end;
		if (hit == 0) {
			*ret_place = (struct blob_place){ .at = at, .len_bytes = len, .hop = at + len + PAGE };
			return 0;
		}
		if (hit > TASK_END)
			break;
		at = (hit + margin + 0xffff) & ~0xffffull;
	}
	return err_set(err, ENOMEM, "no room of %llu bytes is free in all tasks", (unsigned long long)len);
}

static taddr vdso_insn(const struct vessel *v)
{
	for (unsigned int i = 0; i < v->vdso.parts; i++)
		if (v->vdso.part[i].code)
			return v->vdso.part[i].start + v->insn_offset;
	return 0;
}

/* ferry's own vdso is what a fresh clone has, at the same place. */
static int find_insn(struct vessel *v, struct err *err)
{
	for (unsigned int i = 0; i < v->vdso.parts; i++) {
		const struct vdso_part *p = &v->vdso.part[i];
		const uint8_t *at = (const uint8_t *)(uintptr_t)p->start;

		for (uint64_t k = 0; p->code && k + 1 < p->len_bytes; k++)
			if (at[k] == 0x0f && at[k + 1] == 0x05) {
				v->insn_offset = k;
				return 0;
			}
	}
	return err_set(err, ENOENT, "the vdso has no system call in it");
}

static int write_task(pid_t pid, taddr at, const void *from, size_t len_bytes, struct err *err)
{
	struct iovec here = { (void *)(uintptr_t)from, len_bytes }, there = { (void *)(uintptr_t)at, len_bytes };

	if (len_bytes > 0 && process_vm_writev(pid, &here, 1, &there, 1, 0) != (ssize_t)len_bytes)
		return err_sys(err, "write %zu bytes at %#llx of vessel %d", len_bytes, (unsigned long long)at, pid);
	return 0;
}

/* The interpreter's own breakpoint, not a SIGTRAP that somebody sent. */
static bool is_breakpoint(pid_t tid)
{
	siginfo_t info;

	return ptrace(PTRACE_GETSIGINFO, tid, NULL, &info) == 0 && info.si_code == SI_KERNEL;
}

/* Waits for a certain stop and passes over the others; signals that reach a vessel are dropped. */
static int wait_for(pid_t tid, int signal, int request, struct err *err)
{
	struct ptrace_stop stop;
	int r;

	for (;;) {
		r = ptrace_wait(tid, &stop, NULL, err);
		if (r < 0)
			return r;
		if (stop.signal == signal && stop.event == 0 && (signal != SIGTRAP || is_breakpoint(tid)))
			return 0;
		if (stop.signal == SIGSEGV || stop.signal == SIGBUS || stop.signal == SIGILL || stop.signal == SIGSYS)
			return err_set(err, EFAULT, "vessel %d crashed with signal %d", tid, stop.signal);
		r = ptrace_go(request, tid, 0, err);
		if (r < 0)
			return r;
	}
}

int vessel_call(struct vessel *v, uint64_t nr, const uint64_t arg[6], int64_t *ret_value, struct err *err)
{
	struct user_regs_struct regs;
	int r;

	r = ptrace_get_regs(v->pid, &regs, err);
	if (r < 0)
		return r;
	regs.rip = vdso_insn(v);
	regs.rax = nr;
	regs.orig_rax = (unsigned long long)-1;
	regs.rdi = arg[0], regs.rsi = arg[1], regs.rdx = arg[2];
	regs.r10 = arg[3], regs.r8 = arg[4], regs.r9 = arg[5];
	r = ptrace_set_regs(v->pid, &regs, err);
	for (int i = 0; r == 0 && i < 2; i++) {
		r = ptrace_go(PTRACE_SYSCALL, v->pid, 0, err);
		if (r == 0)
			r = wait_for(v->pid, PTRACE_SYSCALL_STOP, PTRACE_SYSCALL, err);
	}
	if (r == 0)
		r = ptrace_get_regs(v->pid, &regs, err);
	if (r == 0)
		*ret_value = (int64_t)regs.rax;
	return r;
}

static int put_blob(struct vessel *v, struct err *err)
{
	const uint64_t map[6] = { v->blob.at, v->blob.len_bytes, PROT_READ | PROT_WRITE | PROT_EXEC,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t)-1, 0 };
	int64_t got;
	int r;

	r = vessel_call(v, SYS_mmap, map, &got, err);
	if (r != 0)
		return r;
	if ((uint64_t)got != v->blob.at)
		return err_set(err, got < 0 ? (int)-got : EIO, "map the interpreter into vessel %d: %s", v->pid,
			       strerror((int)-got));
	return write_task(v->pid, v->blob.at, inject_blob_start, (size_t)(inject_blob_end - inject_blob_start), err);
}

/* glibc's rseq area of ferry was inherited: it goes before its memory does, or the kernel kills. */
static int drop_rseq(struct vessel *v, struct err *err)
{
	struct ptrace_rseq rseq;
	int r;

	r = ptrace_get_rseq(v->pid, &rseq, err);
	if (r < 0 || rseq.pointer == 0)
		return r;
	script_call(&v->script, OP_WANT_ZERO, SYS_rseq, rseq.pointer, rseq.size, 1 /* RSEQ_FLAG_UNREGISTER */,
		    rseq.signature);
	return 0;
}

/*
 * A copy of ferry that waits to be held.  Should ferry die before that, which
 * is before EXITKILL holds, nobody has the other end of the leash any more, and
 * the copy ends by itself.
 */
static pid_t clone_self(pid_t pid, bool sibling, const int leash[2])
{
	pid_t set[1] = { pid };
	struct clone_args args = {
		.flags = CLONE_CLEAR_SIGHAND | (sibling ? CLONE_PARENT : 0),
		.exit_signal = sibling ? 0 : SIGCHLD,
		.set_tid = (uintptr_t)set,
		.set_tid_size = 1,
	};
	pid_t got = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

	if (got == 0) {
		char byte;

		syscall(SYS_close, leash[1]);
		while (syscall(SYS_read, leash[0], &byte, 1) != 0)
			;
		syscall(SYS_exit_group, 1);
	}
	return got;
}

/* A number stays taken for a moment after its last task was reaped and has left /proc. */
static pid_t clone_when_free(pid_t pid, bool sibling, const int leash[2])
{
	const uint64_t end_us = clock_us() + FREED_WAIT_US;
	pid_t got;

	do
		got = clone_self(pid, sibling, leash);
	while (got < 0 && errno == EEXIST && clock_us() < end_us && kill(pid, 0) < 0 && usleep(FREED_WAIT_US / 1000) == 0);
	return got;
}

static int hold(pid_t tid, struct err *err)
{
	struct ptrace_stop stop;
	int r;

	r = ptrace_seize(tid, VESSEL_OPTIONS, err);
	if (r == 0)
		r = ptrace_interrupt(tid, err);
	if (r == 0)
		r = ptrace_wait(tid, &stop, NULL, err);
	if (r == 0)
		r = ptrace_set_sigmask(tid, VESSEL_MASK, err);
	return r;
}

static void init_script(struct vessel *v)
{
	script_init(&v->script, v->blob.at + PAGE, LEADER_DATA, LEADER_OPS);
}

static int furnish(struct vessel *v, struct err *err)
{
	struct proc_maps maps = { 0 };
	int r;

	r = hold(v->pid, err);
	if (r < 0)
		return r;
	r = proc_maps(getpid(), &maps, err);
	if (r < 0)
		return r;
	r = vdso_find(&maps, &v->vdso, err);
	proc_maps_free(&maps);
	if (r == 0)
		r = find_insn(v, err);
	if (r == 0)
		r = put_blob(v, err);
	if (r == 0)
		r = drop_rseq(v, err);
	return r < 0 ? r : 0;
}

int vessel_create(pid_t pid, bool sibling, const struct blob_place *place, struct vessel *ret_vessel,
		  struct err *err)
{
	struct vessel v = { .blob = *place };
	own_fd keep = -1, give = -1;
	int leash[2], r;

	if (pipe2(leash, O_CLOEXEC) < 0)
		return err_sys(err, "make a pipe");
	keep = leash[1], give = leash[0];
	v.pid = clone_when_free(pid, sibling, leash);
	if (v.pid < 0 && errno == EEXIST)
		return err_set(err, EEXIST, "pid %d is taken by another task", pid);
	if (v.pid < 0)
		return err_sys(err, "make a task with pid %d", pid);
	init_script(&v);
	r = furnish(&v, err);
	if (r < 0) {
		vessel_kill(v.pid);
		vessel_free(&v);
		return r;
	}
	*ret_vessel = v;
	return 0;
}

int vessel_catch_thread(pid_t tid, struct err *err)
{
	struct ptrace_stop stop;
	int r;

	r = ptrace_wait(tid, &stop, NULL, err);
	return r < 0 ? r : ptrace_set_sigmask(tid, VESSEL_MASK, err);
}

int vessel_adopt(pid_t pid, const struct vessel *parent, struct vessel *ret_vessel, struct err *err)
{
	int r = vessel_catch_thread(pid, err);

	if (r < 0)
		return r;
	*ret_vessel = (struct vessel){
		.pid = pid, .blob = parent->blob, .vdso = parent->vdso, .insn_offset = parent->insn_offset,
	};
	init_script(ret_vessel);
	return 0;
}

void vessel_free(struct vessel *v)
{
	script_free(&v->script);
}

void vessel_thread_script(const struct vessel *v, unsigned int index, struct script *ret_script)
{
	taddr area = v->blob.at + PAGE + LEADER_AREA + (uint64_t)(index - 1) * THREAD_AREA;

	script_init(ret_script, area, THREAD_DATA, THREAD_OPS);
}

static int write_script(pid_t pid, const struct script *s, const void *ops, size_t len_bytes, struct err *err)
{
	struct iovec here[2] = { { s->data.at, s->data.len }, { (void *)(uintptr_t)ops, len_bytes } };
	struct iovec there[2] = { { (void *)(uintptr_t)s->area, s->data.len },
				  { (void *)(uintptr_t)(s->area + s->data_max), len_bytes } };

	if (process_vm_writev(pid, here, 2, there, 2, 0) != (ssize_t)(s->data.len + len_bytes))
		return err_sys(err, "write a script of %zu calls into vessel %d", s->ops.len, pid);
	return 0;
}

int vessel_start(struct vessel *v, pid_t tid, const struct script *s, struct err *err)
{
	taddr ops_at = s->area + s->data_max;
	struct user_regs_struct regs;
	size_t len;
	int r;

	if (s->overflow)
		return err_set(err, ENOSPC, "a script of %zu calls does not fit", s->ops.len);
	own_free char *ops = script_encode(s, &len);
	r = write_script(v->pid, s, ops, len, err);
	if (r == 0)
		r = ptrace_get_regs(tid, &regs, err);
	if (r < 0)
		return r;
	regs.rip = v->blob.at;
	regs.rdi = ops_at;
	regs.rsp = ops_at + s->ops_max + STACK_BYTES;
	regs.rsp = (regs.rsp & ~15ull) - 8;
	regs.orig_rax = (unsigned long long)-1;
	regs.eflags = 0x202;
	r = ptrace_set_regs(tid, &regs, err);
	return r < 0 ? r : ptrace_go(PTRACE_CONT, tid, 0, err);
}

int vessel_wait(struct vessel *v, pid_t tid, const struct script *s, struct err *err)
{
	struct op_header h;
	struct iovec here = { &h, sizeof(h) }, there = { (void *)(uintptr_t)(s->area + s->data_max), sizeof(h) };
	int r;

	r = wait_for(tid, SIGTRAP, PTRACE_CONT, err);
	if (r < 0)
		return r;
	if (process_vm_readv(v->pid, &here, 1, &there, 1, 0) != (ssize_t)sizeof(h))
		return err_sys(err, "read the verdict of vessel %d", tid);
	return script_verdict(s, &h, err);
}

int vessel_run(struct vessel *v, struct err *err)
{
	int r = 0;

	if (v->script.ops.len > 0 || v->script.overflow) {
		r = vessel_start(v, v->pid, &v->script, err);
		if (r == 0)
			r = vessel_wait(v, v->pid, &v->script, err);
	}
	script_clear(&v->script);
	return r;
}

int vessel_room(struct vessel *v, size_t ops, size_t data_bytes, struct err *err)
{
	return script_fits(&v->script, ops, data_bytes) ? 0 : vessel_run(v, err);
}

/* Lowest part first; the kernel itself keeps track of where the vdso is. */
static void move_group(struct vessel *v, taddr to)
{
	taddr from = v->vdso.part[0].start;

	for (unsigned int i = 0; i < v->vdso.parts; i++) {
		struct vdso_part *p = &v->vdso.part[i];
		taddr at = to + (p->start - from);

		script_call_value(&v->script, at, SYS_mremap, "move the vdso", p->start, p->len_bytes, p->len_bytes,
				  MREMAP_MAYMOVE | MREMAP_FIXED, at);
		p->start = at;
	}
}

int vessel_move_vdso(struct vessel *v, taddr to, uint64_t span_bytes, uint64_t code_offset, struct err *err)
{
	taddr from = v->vdso.part[0].start;
	uint64_t span = vdso_span(&v->vdso);

	if (span != span_bytes || vdso_code_offset(&v->vdso) != code_offset)
		return err_set(err, EOPNOTSUPP, "the vdso was laid out otherwise than this kernel's");
	if (from == to)
		return 0;
	if (to < from + span && from < to + span)
		move_group(v, v->blob.hop);
	move_group(v, to);
	return 0;
}

/*
 * From the end of a system call on to where the kernel looks after signals, as the other threads stand: only from
 * there it does what registers say of an interrupted call.
 */
static int leave_call(pid_t tid, struct err *err)
{
	struct ptrace_stop stop = { 0 };
	int r = ptrace_interrupt(tid, err);

	while (r == 0 && stop.event != PTRACE_EVENT_STOP) {
		r = ptrace_go(PTRACE_CONT, tid, 0, err);
		if (r == 0)
			r = ptrace_wait(tid, &stop, NULL, err);
	}
	return r;
}

int vessel_leave(struct vessel *v, struct err *err)
{
	const uint64_t arg[6] = { v->blob.at, v->blob.len_bytes };
	int64_t got;
	int r = vessel_call(v, SYS_munmap, arg, &got, err);

	if (r == 0 && got != 0)
		r = err_set(err, EIO, "unmap the interpreter: %lld", (long long)got);
	return r < 0 ? r : leave_call(v->pid, err);
}

static void reap(pid_t tid)
{
	int status;
	pid_t got;

	do
		got = waitpid(tid, &status, __WALL);
	while ((got < 0 && errno == EINTR) || (got > 0 && WIFSTOPPED(status)));
}

/* A leader can't be reaped before its threads, and those are ours to reap: they are traced. */
void vessel_kill(pid_t pid)
{
	struct proc_ids tids = { 0 };
	struct err err;
	bool listed = proc_threads(pid, &tids, &err) == 0;

	if (kill(pid, SIGKILL) == 0) {
		for (size_t i = 0; listed && i < tids.len; i++)
			if (tids.at[i] != pid)
				reap(tids.at[i]);
		reap(pid);
	}
	vec_free(&tids);
}
