/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "inject/question.h"
#include "kernel/arch/x86_64/xstate.h"
#include "kernel/sys.h"

#define RED_ZONE                128u
#define ROOM_BELOW              8192u           /* what must be free below the stack pointer */
#define FAR_AWAY                (32u * 1024)    /* from the stack pointer of a thread that lends its stack */
#define ALIGNMENTS              128u            /* what the parts of a frame may lose by theirs */
#define XSAVE_SW_OFFSET         464u            /* the 48 bytes that belong to software */
#define MAGIC_BEFORE            0x46505853u     /* FP_XSTATE_MAGIC1 */
#define MAGIC_BEHIND            0x46505845u     /* FP_XSTATE_MAGIC2 */
#define UC_FLAGS                7u              /* UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS */
#define BAD_SS_FLAGS            0x1234u         /* invalid, so that sigreturn leaves the altstack alone */

/* What the kernel returns inside when a call is to be made again. */
enum { ERESTARTSYS = 512, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 516 };

/* The signal frame of x86-64 (arch/x86/include/uapi/asm/sigcontext.h, ucontext.h). */
struct sigframe {
	uint64_t return_to;
	uint64_t uc_flags, uc_link;
	uint64_t ss_sp;
	uint32_t ss_flags, ss_pad;
	uint64_t ss_size;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15, di, si, bp, bx, dx, ax, cx, sp, ip, flags;
	uint16_t cs, gs, fs, ss;
	uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
	uint64_t mask;
	uint8_t info[128];
};

static bool interrupted(const struct user_regs_struct *r)
{
	int64_t ax = (int64_t)r->rax;

	return (int64_t)r->orig_rax >= 0 && (ax == -ERESTARTSYS || ax == -ERESTARTNOINTR || ax == -ERESTARTNOHAND ||
					     ax == -ERESTART_RESTARTBLOCK);
}

/*
 * Calls that answer EINTR to any stop, ptrace's too, though no signal came (signal(7)).  At a trap no signal
 * has been delivered, so the call is simply made again: a signal that waits will interrupt it as it would have.
 */
static bool interrupted_by_stop(const struct user_regs_struct *r)
{
	static const uint16_t calls[] = {
		SYS_epoll_wait, SYS_epoll_pwait, 441 /* epoll_pwait2 */, SYS_rt_sigtimedwait, SYS_semop, SYS_semtimedop,
		SYS_io_getevents, 333 /* io_pgetevents */, 426 /* io_uring_enter */, SYS_accept, SYS_accept4,
		SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_sendto, SYS_sendmsg, SYS_sendmmsg, SYS_read, SYS_readv,
		SYS_write, SYS_writev, SYS_connect, SYS_futex,
	};

	for (size_t i = 0; (int64_t)r->rax == -EINTR && i < ARRAY_LEN(calls); i++)
		if (r->orig_rax == calls[i])
			return true;
	return false;
}

/*
 * restart_syscall hides which call it stands for.  As long as the kernel has only made ready for it, the call is still
 * in orig_rax; later some libraries' wrappers say it right before the syscall instruction.
 */
static bool decode_restarted(const struct subject *s, taddr insn, unsigned long long *ret_nr)
{
	uint8_t code[7];
	struct iovec here = { code, sizeof(code) }, there = { (void *)(uintptr_t)(insn - 5), sizeof(code) };
	uint32_t nr;

	if ((int64_t)s->seen.orig_rax >= 0 && s->seen.orig_rax != SYS_restart_syscall) {
		*ret_nr = s->seen.orig_rax;
		return true;
	}
	if (process_vm_readv(s->tid, &here, 1, &there, 1, 0) != sizeof(code) || code[0] != 0xb8)
		return false;
	memcpy(&nr, code + 1, sizeof(nr));
	*ret_nr = nr;
	return true;
}

static bool is_call(pid_t tid, taddr insn)
{
	uint8_t code[2];
	struct iovec here = { code, sizeof(code) }, there = { (void *)(uintptr_t)insn, sizeof(code) };

	return process_vm_readv(tid, &here, 1, &there, 1, 0) == sizeof(code) && code[0] == 0x0f && code[1] == 0x05;
}

/*
 * Three ways on from a call that the stop interrupted.  An image has registers with which it is made again, and the
 * kernel's code beside them.  A live task gets that code back as it was, so that the kernel itself makes the call
 * again, or ends it with EINTR when a signal is handled first.  The calls that answer EINTR to any stop are treated
 * as those that say so.
 */
static void work_out_restart(struct subject *s)
{
	struct user_regs_struct *image = &s->restart, *back = &s->back;
	bool by_stop = interrupted_by_stop(&s->seen), block = false;

	*image = *back = s->seen;
	if (by_stop)
		back->rax = (uint64_t)-ERESTARTNOHAND;
	if (by_stop || interrupted(&s->seen)) {
		block = (int64_t)s->seen.rax == -ERESTART_RESTARTBLOCK;
		image->rip = s->seen.rip - 2;
		image->rax = s->seen.orig_rax;
		s->interrupted = block ? ERESTARTNOHAND : (uint32_t)-back->rax;
	}
	if (image->rax == SYS_restart_syscall && is_call(s->tid, image->rip)) {
		s->interrupted = ERESTARTNOHAND;
		s->call_unknown = !decode_restarted(s, image->rip, &image->rax);
	}
	if (s->call_unknown && block) {
		image->rip = s->seen.rip;
		image->rax = (uint64_t)-EINTR;
		s->interrupted = 0;
	}
	image->orig_rax = (unsigned long long)-1;
}

/*
 * A stop inside an rseq critical section is reported as such; once registers are
 * set by hand the kernel no longer aborts it, so it is done here.
 */
static int abort_rseq(struct subject *s, struct err *err)
{
	struct { uint32_t version, flags; uint64_t start, length, abort; } cs;
	uint64_t pointer = 0;
	struct iovec here = { &pointer, sizeof(pointer) };
	struct iovec there = { (void *)(uintptr_t)(s->rseq.pointer + 8), sizeof(pointer) };

	if (s->rseq.pointer == 0)
		return 0;
	if (process_vm_readv(s->tid, &here, 1, &there, 1, 0) != sizeof(pointer))
		return err_sys(err, "read the rseq area of thread %d", s->tid);
	if (pointer == 0)
		return 0;
	here = (struct iovec){ &cs, sizeof(cs) };
	there = (struct iovec){ (void *)(uintptr_t)pointer, sizeof(cs) };
	if (process_vm_readv(s->tid, &here, 1, &there, 1, 0) != sizeof(cs))
		return err_sys(err, "read the rseq critical section of thread %d", s->tid);
	if (s->seen.rip - cs.start < cs.length)
		s->restart.rip = s->back.rip = cs.abort;
	return 0;
}

/*
 * How much of an XSAVE area is kept: up to the last component in use.  ptrace
 * gives room for all that the processor has, 11 KiB with AMX, and a frame that
 * says it is larger than what this task may use is taken for one without any
 * vector state.  What lies behind is in its initial state.
 */
static size_t used_len(const uint8_t *xsave, size_t xsave_len)
{
	size_t end = XSTATE_LEGACY_BYTES, offset, len;
	uint64_t used;

	memcpy(&used, xsave + XSTATE_HEADER, sizeof(used));
	for (unsigned int i = XSTATE_AVX; i < 63; i++)
		if (used >> i & 1 && xstate_place(i, &offset, &len) && offset + len > end)
			end = offset + len;
	return end < xsave_len ? end : xsave_len;
}

int subject_see(pid_t tid, struct subject *ret_subject, struct err *err)
{
	struct subject s = { .tid = tid };
	uint8_t xsave[PTRACE_XSAVE_MAX];
	int r;

	r = ptrace_get_regs(tid, &s.seen, err);
	if (r == 0)
		r = ptrace_get_xsave(tid, xsave, sizeof(xsave), &s.xsave_len, err);
	if (r == 0)
		r = ptrace_get_sigmask(tid, &s.mask, err);
	if (r == 0)
		r = ptrace_get_rseq(tid, &s.rseq, err);
	if (r < 0)
		return r;
	work_out_restart(&s);
	r = abort_rseq(&s, err);
	if (r < 0)
		return r;
	if (s.xsave_len < XSTATE_LEGACY_BYTES)
		return err_set(err, EOPNOTSUPP, "an XSAVE area of %zu bytes", s.xsave_len);
	s.xsave_len = used_len(xsave, s.xsave_len);
	s.xsave = mem_dup(xsave, s.xsave_len + 4);
	*ret_subject = s;
	return 0;
}

void subject_in_call(struct subject *s, uint64_t nr)
{
	if (!s->call_unknown)
		return;
	s->call_unknown = false;
	if ((int64_t)s->seen.rax == -ERESTART_RESTARTBLOCK) {
		s->restart.rip = s->seen.rip - 2;
		s->interrupted = ERESTARTNOHAND;
	}
	s->restart.rax = nr;
}

/* A stack: in one mapping, or in several that lie side by side. */
struct stack { taddr start, end; bool grows; };

/* Advice, or a tracker that came while it grew, cuts it into pieces, of which only the topmost has the name. */
static bool is_piece_below(const struct proc_map *m, const struct proc_map *upper)
{
	return m->end == upper->start && m->prot == upper->prot && m->ino == 0 && !m->shared &&
	       (m->vm_flags == 0 || m->vm_flags & VMF_GD);      /* 0: nobody has read them */
}

static bool is_main_stack(const struct proc_map *m, const struct proc_maps *maps)
{
	const struct proc_map *last = maps->at + maps->len - 1;

	for (; strcmp(m->name, "[stack]") != 0; m++)
		if (m == last || !is_piece_below(m, m + 1))
			return false;
	return true;
}

static struct stack main_stack(const struct proc_map *m, const struct proc_maps *maps)
{
	const struct proc_map *low = m, *high = m;

	while (low > maps->at && is_piece_below(low - 1, low))
		low--;
	while (strcmp(high->name, "[stack]") != 0)
		high++;
	return (struct stack){ low->start, high->end, .grows = true };
}

/*
 * Where a stack pointer stands.  One far below what the main stack has grown to stands there too: nothing has been
 * written there yet.
 */
static const struct proc_map *stood_on(const struct proc_maps *maps, taddr rsp)
{
	for (size_t i = 0; i < maps->len; i++)
		if (rsp - 1 < maps->at[i].end)
			return rsp - 1 >= maps->at[i].start || is_main_stack(&maps->at[i], maps) ? &maps->at[i] : NULL;
	return NULL;
}

/*
 * The stack that a thread stands on, if what lies below its stack pointer is dead: the main stack, or one with a guard
 * right below, as pthread's are.  Not so of stacks cut out of a heap (Go's, coroutines'): anything may lie below them.
 */
static bool own_stack(const struct subject *s, const struct proc_maps *maps, struct stack *ret_stack)
{
	const struct proc_map *m = stood_on(maps, s->seen.rsp), *below = m && m > maps->at ? m - 1 : NULL;

	if (!m || !(m->prot & PROT_WRITE))
		return false;
	if (is_main_stack(m, maps))
		*ret_stack = main_stack(m, maps);
	else if (below && below->end == m->start && below->prot == PROT_NONE)
		*ret_stack = (struct stack){ m->start, m->end, .grows = false };
	else
		return false;
	return true;
}

static size_t frame_bytes(const struct subject *s)
{
	return sizeof(struct sigframe) + s->xsave_len + 4 + CHAIN_BYTES + QUESTION_OUT_BYTES + ALIGNMENTS;
}

static bool is_taken(const struct subject *all, size_t count, taddr from, taddr to)
{
	for (size_t i = 0; i < count; i++)
		if (all[i].open && all[i].saved_at < to && from < all[i].saved_at + all[i].saved_len)
			return true;
	return false;
}

/* At the far end of a stack: should ferry die, whoever stands on it goes on too, and must not get there first. */
static bool far_end(const struct stack *stack, taddr rsp, size_t need, const struct subject *all, size_t count,
		    taddr *ret_top)
{
	for (taddr top = stack->start + need; top + FAR_AWAY <= rsp; top += need)
		if (!is_taken(all, count, top - need, top)) {
			*ret_top = top;
			return true;
		}
	return false;
}

/* A main stack that nobody stands on (the main thread is on one of its own making) was hardly used. */
static bool idle_stack(const struct proc_maps *maps, const struct subject *all, size_t count, struct stack *ret_stack)
{
	for (size_t k = 0; k < count; k++) {
		const struct proc_map *m = stood_on(maps, all[k].seen.rsp);

		if (m && is_main_stack(m, maps))
			return false;
	}
	for (size_t i = 0; i < maps->len; i++)
		if (strcmp(maps->at[i].name, "[stack]") == 0) {
			*ret_stack = main_stack(&maps->at[i], maps);
			return true;
		}
	return false;
}

/*
 * A main stack that is deep in use ends right below the stack pointer, or above it: a write there lets it grow, as the
 * thread's own would.  The mapping in `maps`, and so in an image, stays as it was.
 */
static bool grow_stack(const struct subject *s, const struct proc_maps *maps, const struct stack *stack, taddr down_to)
{
	if (!stack->grows || down_to >= stack->start)
		return false;
	for (size_t i = 0; i < maps->len && maps->at[i].end <= stack->start; i++)
		if (maps->at[i].end > down_to)
			return false;
	return ptrace(PTRACE_POKEDATA, s->tid, down_to & ~7ull, NULL) == 0;
}

static bool has_room(const struct subject *s, const struct proc_maps *maps, const struct stack *stack, size_t need)
{
	const taddr down_to = s->seen.rsp - RED_ZONE - need - ROOM_BELOW;

	return stack->start <= down_to || grow_stack(s, maps, stack, down_to);
}

static int find_room(const struct subject *s, const struct proc_maps *maps, const struct subject *all, size_t count,
		     taddr *ret_top, struct err *err)
{
	const size_t need = frame_bytes(s);
	struct stack stack;

	if (own_stack(s, maps, &stack) && has_room(s, maps, &stack, need)) {
		*ret_top = s->seen.rsp - RED_ZONE;
		return 0;
	}
	for (size_t i = 0; i < count; i++)
		if (own_stack(&all[i], maps, &stack) && far_end(&stack, all[i].seen.rsp, need, all, count, ret_top))
			return 0;
	if (idle_stack(maps, all, count, &stack) && far_end(&stack, stack.end, need, all, count, ret_top))
		return 0;
	return err_set(err, ENOSPC, "thread %d has no room on its stack to be asked", s->tid);
}

static void fill_frame(const struct subject *s, const struct user_regs_struct *r, taddr fpstate, struct sigframe *f)
{
	*f = (struct sigframe){
		.uc_flags = UC_FLAGS, .ss_flags = BAD_SS_FLAGS,
		.r8 = r->r8, .r9 = r->r9, .r10 = r->r10, .r11 = r->r11, .r12 = r->r12, .r13 = r->r13,
		.r14 = r->r14, .r15 = r->r15, .di = r->rdi, .si = r->rsi, .bp = r->rbp, .bx = r->rbx,
		.dx = r->rdx, .ax = r->rax, .cx = r->rcx, .sp = r->rsp, .ip = r->rip, .flags = r->eflags,
		.cs = (uint16_t)r->cs, .ss = (uint16_t)r->ss, .fpstate = fpstate, .mask = s->mask,
	};
}

/* The XSAVE image as a frame wants it: the kernel's own notes replaced by the frame's. */
static void mark_xsave(uint8_t *xsave, size_t len)
{
	uint32_t size = (uint32_t)len, full = size + 4, magic1 = MAGIC_BEFORE, magic2 = MAGIC_BEHIND;
	uint64_t features;
	uint8_t *sw = xsave + XSAVE_SW_OFFSET;

	memcpy(&features, sw, sizeof(features));
	memset(sw, 0, 48);
	memcpy(sw, &magic1, 4);
	memcpy(sw + 4, &full, 4);
	memcpy(sw + 8, &features, 8);
	memcpy(sw + 16, &size, 4);
	memcpy(xsave + len, &magic2, 4);
}

static int save_bytes(struct subject *s, taddr from, taddr to, struct err *err)
{
	s->saved_at = from;
	s->saved_len = to - from;
	s->saved = mem_new(s->saved_len);
	return sys_read_memory(s->tid, from, s->saved, s->saved_len, err);
}

static int write_frame(pid_t tid, taddr frame_at, const struct sigframe *frame, taddr fpstate, const uint8_t *xsave,
		       size_t len_bytes, struct err *err)
{
	struct iovec here[2] = { { (void *)(uintptr_t)frame, sizeof(*frame) }, { (void *)(uintptr_t)xsave, len_bytes } };
	struct iovec there[2] = { { (void *)(uintptr_t)frame_at, sizeof(*frame) }, { (void *)(uintptr_t)fpstate, len_bytes } };

	if (process_vm_writev(tid, here, 2, there, 2, 0) != (ssize_t)(sizeof(*frame) + len_bytes))
		return err_sys(err, "lay a frame on the stack of thread %d", tid);
	return 0;
}

static int lay_frame(struct subject *s, taddr top, struct err *err)
{
	size_t len = s->xsave_len;
	taddr fpstate = (top - len - 4) & ~63ull;
	own_free uint8_t *xsave = mem_dup(s->xsave, len + 4);
	struct sigframe frame;
	int r;

	s->frame = ((fpstate - sizeof(struct sigframe)) & ~15ull) - 8;
	s->out = (s->frame - CHAIN_BYTES - QUESTION_OUT_BYTES) & ~15ull;
	r = save_bytes(s, s->out, top, err);
	if (r < 0)
		return r;
	mark_xsave(xsave, len);
	/* restart_syscall after a sigreturn answers EINTR: a frame needs the real number */
	fill_frame(s, &s->restart, fpstate, &frame);
	return write_frame(s->tid, s->frame, &frame, fpstate, xsave, len + 4, err);
}

int subject_open(struct subject *s, const struct gadgets *g, const struct proc_maps *maps,
		 const struct subject *all, size_t count, struct err *err)
{
	taddr top;
	int r;

	s->gadgets = *g;
	r = find_room(s, maps, all, count, &top, err);
	if (r == 0)
		r = lay_frame(s, top, err);
	if (r < 0)
		return r;
	s->heal = s->seen;
	s->heal.rip = g->syscall;
	s->heal.rax = SYS_rt_sigreturn;
	s->heal.orig_rax = (unsigned long long)-1;
	s->heal.rsp = s->frame + 8;
	r = ptrace_set_regs(s->tid, &s->heal, err);
	if (r < 0)
		return r;
	s->open = true;
	r = ptrace_set_sigmask(s->tid, g->signal ? ~(1ull << (g->signal - 1)) : ~0ull, err);
	if (r < 0)
		subject_close(s, &(struct err){ 0 });
	return r;
}

/* Resumes to the next system call stop.  Only SIGSTOP can come in between. */
static int wait_syscall(struct subject *s, struct err *err)
{
	struct ptrace_stop stop;
	int r;

	for (;;) {
		r = ptrace_wait(s->tid, &stop, NULL, err);
		if (r < 0 || stop.signal == PTRACE_SYSCALL_STOP)
			return r;
		if (stop.event == 0 && stop.signal == SIGSTOP)
			s->stopped = true;
		r = ptrace_go(PTRACE_SYSCALL, s->tid, 0, err);
		if (r < 0)
			return r;
	}
}

static int put_in_place(const struct question *q, struct err *err)
{
	struct user_regs_struct r = q->subject->heal;

	r.rip = q->subject->gadgets.sigreturn;
	r.orig_rax = q->nr;
	r.rax = (unsigned long long)-ENOSYS;
	r.rdi = q->arg[0], r.rsi = q->arg[1], r.rdx = q->arg[2];
	r.r10 = q->arg[3], r.r8 = q->arg[4], r.r9 = q->arg[5];
	return ptrace_set_regs(q->subject->tid, &r, err);
}

/* The sigreturn of the question before, or of the frame itself: its entry is where the next one goes. */
static int start(struct subject *s, struct err *err)
{
	if (s->after_chain) {
		int r = ptrace_set_regs(s->tid, &s->heal, err);

		if (r < 0)
			return r;
		s->after_chain = false;
	}
	return ptrace_go(PTRACE_SYSCALL, s->tid, 0, err);
}

int question_ask(struct question *q, size_t count, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++)
		r = start(q[i].subject, err);
	for (size_t i = 0; r == 0 && i < count; i++) {
		r = wait_syscall(q[i].subject, err);
		if (r == 0)
			r = put_in_place(&q[i], err);
		if (r == 0)
			r = ptrace_go(PTRACE_SYSCALL, q[i].subject->tid, 0, err);
	}
	for (size_t i = 0; r == 0 && i < count; i++) {
		struct user_regs_struct regs;

		r = wait_syscall(q[i].subject, err);
		q[i].subject->at_call = true;
		if (r == 0)
			r = ptrace_get_regs(q[i].subject->tid, &regs, err);
		if (r == 0)
			q[i].answer = (int64_t)regs.rax;
	}
	return r;
}

/* ---- ahead of time ---- */

static void keep(struct subject *s, const struct standing_question *q, int64_t value, const void *written)
{
	struct answer *a = &s->kept[s->kept_len++];

	*a = (struct answer){ .nr = q->nr, .arg0 = q->arg[0], .value = value };
	if (written)
		memcpy(a->out, written, sizeof(a->out));
}

static void make_room(struct subject *s, size_t n)
{
	struct answer *kept = mem_new((s->kept_len + n) * sizeof(*kept));

	if (s->kept_len > 0)
		memcpy(kept, s->kept, s->kept_len * sizeof(*kept));
	free(s->kept);
	s->kept = kept;
}

static int return_into(struct subject *s, taddr chain, const uint8_t *buf, struct err *err)
{
	struct user_regs_struct regs = s->heal;
	int r = sys_write_memory(s->tid, s->out, buf, s->frame + 8 - s->out, err);

	regs.rsp = chain;
	regs.rip = s->gadgets.chain.pop_rax + 1;        /* its ret */
	if (r == 0)
		r = ptrace_set_regs(s->tid, &regs, err);
	return r < 0 ? r : ptrace_go(PTRACE_CONT, s->tid, 0, err);
}

static int start_chain(struct subject *s, const struct standing_question *q, size_t n, struct err *err)
{
	uint8_t buf[QUESTION_OUT_BYTES + CHAIN_BYTES + 64];

	return return_into(s, chain_lay(&s->gadgets.chain, q, n, s->tid, s->gadgets.signal, s->out, s->frame, buf), buf, err);
}

/*
 * Until the chain stops behind its n-th answer; `out` gets n slots.  Other stops are passed over; a SIGSTOP is
 * remembered.
 */
static int wait_chain(struct subject *s, size_t n, uint8_t *out, struct err *err)
{
	struct ptrace_stop stop;
	uint64_t last;
	int r;

	for (;;) {
		r = ptrace_wait(s->tid, &stop, NULL, err);
		if (r < 0)
			return r;
		if (stop.event == 0 && stop.signal == s->gadgets.signal) {
			r = sys_read_memory(s->tid, s->out, out, n * CHAIN_SLOT_BYTES, err);
			if (r < 0)
				return r;
			memcpy(&last, out + (n - 1) * CHAIN_SLOT_BYTES, sizeof(last));
			if (last != CHAIN_UNANSWERED)
				break;
		}
		if (stop.signal == SIGSEGV || stop.signal == SIGBUS || stop.signal == SIGILL || stop.signal == SIGSYS)
			return err_set(err, EFAULT, "thread %d met signal %d while it was asked", s->tid, stop.signal);
		s->stopped |= stop.event == 0 && stop.signal == SIGSTOP;
		r = ptrace_go(PTRACE_CONT, s->tid, 0, err);
		if (r < 0)
			return r;
	}
	s->after_chain = true;
	s->at_call = false;
	return 0;
}

static int finish_chain(struct subject *s, const struct standing_question *q, size_t n, struct err *err)
{
	uint8_t out[CHAIN_OUT_BYTES];
	int r = wait_chain(s, n, out, err);

	for (size_t k = 0; r == 0 && k < n; k++) {
		int64_t value;

		memcpy(&value, out + k * CHAIN_SLOT_BYTES, sizeof(value));
		keep(s, &q[k], value, out + k * CHAIN_SLOT_BYTES + 8);
	}
	return r;
}

static int ask_by_chains(struct subject *const *subjects, size_t count, const struct standing_question *q, size_t n,
			 struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++)
		if (subjects[i]->gadgets.signal)
			r = start_chain(subjects[i], q, n, err);
	for (size_t i = 0; r == 0 && i < count; i++)
		if (subjects[i]->gadgets.signal)
			r = finish_chain(subjects[i], q, n, err);
	return r;
}

static int ask_one_by_one(struct subject *s, const struct standing_question *standing, size_t n, struct err *err)
{
	int r = 0;

	for (size_t k = 0; r == 0 && k < n; k++) {
		struct question q = { .subject = s, .nr = standing[k].nr };
		uint8_t written[sizeof(s->kept->out)] = { 0 };

		memcpy(q.arg, standing[k].arg, sizeof(q.arg));
		if (standing[k].out_arg > 0)
			q.arg[standing[k].out_arg] = s->out;
		r = question_ask(&q, 1, err);
		if (r == 0 && standing[k].out_arg > 0 && q.answer >= 0)
			r = sys_read_memory(s->tid, s->out, written, sizeof(written), err);
		if (r == 0)
			keep(s, &standing[k], q.answer, written);
	}
	return r;
}

int question_ask_ahead(struct subject *const *subjects, size_t count, const struct standing_question *q, size_t n,
		       struct err *err)
{
	int r = 0;

	assert(n <= CHAIN_QUESTIONS_MAX);
	for (size_t i = 0; i < count; i++)
		make_room(subjects[i], n);
	r = ask_by_chains(subjects, count, q, n, err);
	for (size_t i = 0; r == 0 && i < count; i++)
		if (!subjects[i]->gadgets.signal)
			r = ask_one_by_one(subjects[i], q, n, err);
	return r;
}

int question_ask_one(struct subject *s, uint64_t nr, const uint64_t arg[6], int64_t *ret_answer, struct err *err)
{
	struct question q = { .subject = s, .nr = nr };
	int r;

	for (size_t i = 0; i < s->kept_len; i++)
		if (s->kept[i].nr == nr && s->kept[i].arg0 == arg[0]) {
			s->replay = &s->kept[i];
			*ret_answer = s->kept[i].value;
			return 0;
		}
	s->replay = NULL;
	memcpy(q.arg, arg, sizeof(q.arg));
	r = question_ask(&q, 1, err);
	if (r == 0)
		*ret_answer = q.answer;
	return r;
}

int question_read(const struct subject *s, size_t offset, void *buf, size_t len_bytes, struct err *err)
{
	if (!s->replay)
		return sys_read_memory(s->tid, s->out + offset, buf, len_bytes, err);
	if (offset + len_bytes > sizeof(s->replay->out))
		return err_set(err, ERANGE, "an answer of %zu bytes was not kept", offset + len_bytes);
	memcpy(buf, s->replay->out + offset, len_bytes);
	return 0;
}

/* ---- descriptors ---- */

static int take_out(pid_t tid, int64_t fd, int *ret_fd, struct err *err)
{
	own_fd pidfd = -1;
	int r;

	if (fd < 0)
		return err_set(err, (int)-fd, "make a descriptor in thread %d: %s", tid, strerror((int)-fd));
	r = sys_pidfd_open(tid, 0, &pidfd, err);
	return r < 0 ? r : sys_pidfd_getfd(pidfd, (int)fd, ret_fd, err);
}

static int take_by_chain(struct subject *s, uint64_t nr, uint64_t arg, int *ret_fd, struct err *err)
{
	uint8_t buf[QUESTION_OUT_BYTES + CHAIN_BYTES + 64], out[CHAIN_OUT_BYTES];
	taddr chain = chain_lay_fd(&s->gadgets.chain, nr, arg, s->tid, s->gadgets.signal, s->out, s->frame, buf);
	int64_t fd;
	int r = return_into(s, chain, buf, err), ended;

	if (r == 0)
		r = wait_chain(s, 1, out, err);
	if (r < 0)
		return r;
	memcpy(&fd, out, sizeof(fd));
	r = take_out(s->tid, fd, ret_fd, err);
	err = r < 0 ? &(struct err){ 0 } : err;
	ended = ptrace_go(PTRACE_CONT, s->tid, 0, err);
	if (ended == 0)
		ended = wait_chain(s, 2, out, err);
	return r < 0 ? r : ended;
}

static int take_by_calls(struct subject *s, uint64_t nr, uint64_t arg, int *ret_fd, struct err *err)
{
	struct question make = { .subject = s, .nr = nr, .arg = { arg } }, end = { .subject = s, .nr = SYS_close };
	int r = question_ask(&make, 1, err), ended = 0;

	if (r < 0)
		return r;
	r = take_out(s->tid, make.answer, ret_fd, err);
	end.arg[0] = (uint64_t)make.answer;
	if (make.answer >= 0)
		ended = question_ask(&end, 1, r < 0 ? &(struct err){ 0 } : err);
	return r < 0 ? r : ended;
}

int question_take_fd(struct subject *s, uint64_t nr, uint64_t arg, int *ret_fd, struct err *err)
{
	own_fd fd = -1;
	int r = s->gadgets.signal ? take_by_chain(s, nr, arg, &fd, err) : take_by_calls(s, nr, arg, &fd, err);

	if (r == 0)
		*ret_fd = TAKE_FD(fd);
	return r;
}

/* ---- the end ---- */

/* From the end of a question to where the kernel looks after signals: only there it knows of interrupted calls. */
static int leave_call(struct subject *s, struct err *err)
{
	struct ptrace_stop stop;
	int r = ptrace_interrupt(s->tid, err);

	if (r == 0)
		r = ptrace_go(PTRACE_CONT, s->tid, 0, err);
	if (r == 0)
		r = ptrace_wait(s->tid, &stop, NULL, err);
	s->stopped |= r == 0 && stop.event == 0 && stop.signal == SIGSTOP;
	return r;
}

int subject_close(struct subject *s, struct err *err)
{
	int r;

	if (!s->open)
		return 0;
	s->open = false;
	r = s->at_call && interrupted(&s->back) ? leave_call(s, err) : 0;
	if (r == 0)
		r = ptrace_set_sigmask(s->tid, s->mask, err);
	if (r == 0)
		r = ptrace_set_regs(s->tid, &s->back, err);
	/* the frame was the way back until now */
	if (r == 0)
		r = sys_write_memory(s->tid, s->saved_at, s->saved, s->saved_len, err);
	if (r == 0 && s->stopped)
		kill(s->tid, SIGSTOP);
	free(TAKE_PTR(s->saved));
	free(TAKE_PTR(s->kept));
	s->kept_len = 0;
	s->replay = NULL;
	return r;
}

void subject_free(struct subject *s)
{
	free(s->xsave);
	free(s->saved);
	free(s->kept);
	s->xsave = s->saved = NULL;
	s->kept = NULL;
}
