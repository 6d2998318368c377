/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registers - general registers, vector state, blocked signals.
 *
 * Seen in:  ptrace, by subject_see(): calls that a stop interrupted are made
 *           ready to be made again.
 * Made by:  the engine, from outside, at the very end.
 * Image:    thread_info; the XSAVE area of standard form is cut into the
 *           arrays of fpregs.  Mask: tc for the leader, thread_core for others.
 *           That a call was interrupted, and whether a signal that is handled
 *           ends it: thread_core.interrupted.
 *
 * ptrace refuses what would fault, so all of that is refused here, before any
 * task exists.
 */
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/arch/x86_64/xstate.h"
#include "resource/resource.h"

#define TASK_END        0x7ffffffff000ull
#define CS_64           0x33u
#define CS_32           0x23u
#define SS_USER         0x2bu
#define FLAGS_USER      0x254fd7ull             /* all that a program can set, and the two that always are */
#define TLS_FIRST       12u                     /* GDT entries of set_thread_area() */
#define TLS_COUNT       3u
#define CODE_FIRST      512u                    /* ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND */
#define CODE_LAST       514u
#define NT_X86_SHSTK_   0x204                   /* since Linux 6.6 */

/* What the record has an array for. */
#define IN_RECORD (1ull << XSTATE_X87 | 1ull << XSTATE_SSE | 1ull << XSTATE_AVX | 1ull << XSTATE_BNDREGS | \
		   1ull << XSTATE_BNDCSR | 1ull << XSTATE_OPMASK | 1ull << XSTATE_ZMM_HI256 |              \
		   1ull << XSTATE_HI16_ZMM | 1ull << XSTATE_PKRU)

static const char *component_name(unsigned int component)
{
	static const char *const names[] = {
		"x87", "SSE", "AVX", "MPX bounds", "MPX control", "AVX-512 masks", "AVX-512 upper halves",
		"AVX-512 registers 16 to 31", "processor trace", "protection keys", "PASID", "shadow stack",
		"supervisor shadow stack", "HDC", "user interrupts", "LBR", "HWP", "AMX configuration", "AMX tiles",
	};

	return component < ARRAY_LEN(names) ? names[component] : "an unknown component";
}

static int check_components(uint64_t used, uint64_t have, const char *who, struct err *err)
{
	uint64_t missing = used & ~have;

	if (missing)
		return err_set(err, EOPNOTSUPP, "registers in use that %s: %s (component %d)", who,
			       component_name((unsigned int)__builtin_ctzll(missing)), __builtin_ctzll(missing));
	return 0;
}

static bool has_shadow_stack(pid_t tid)
{
	uint64_t ssp;
	struct iovec v = { &ssp, sizeof(ssp) };

	return ptrace(PTRACE_GETREGSET, tid, NT_X86_SHSTK_, &v) == 0;
}

static int registers_see(const struct task_view *view, struct subject *s, struct thread *t, struct err *err)
{
	uint64_t used;
	int r;

	(void)view;
	if (s->xsave_len > xstate_size())
		return err_set(err, EOPNOTSUPP, "an XSAVE area of %zu bytes", s->xsave_len);
	memcpy(&used, s->xsave + XSTATE_HEADER, sizeof(used));
	r = check_components(used, IN_RECORD, "no image can hold", err);
	if (r < 0)
		return r;
	if ((s->restart.cs & 0xffff) != CS_64)
		return err_set(err, EOPNOTSUPP, "thread %d runs 32-bit code", s->tid);
	if (has_shadow_stack(s->tid))
		return err_set(err, EOPNOTSUPP, "thread %d has a shadow stack", s->tid);
	t->regs = s->restart;
	t->interrupted = s->interrupted;
	t->xsave = mem_new(xstate_size());      /* what is not in use is in its initial state */
	memcpy(t->xsave, s->xsave, s->xsave_len);
	t->xsave_len = xstate_size();
	t->mask = s->mask;
	return 0;
}

/* general registers: the record's name, ours */
#define GENERAL(X) \
	X(r15, r15) X(r14, r14) X(r13, r13) X(r12, r12) X(bp, rbp) X(bx, rbx) X(r11, r11) X(r10, r10) X(r9, r9) \
	X(r8, r8) X(ax, rax) X(cx, rcx) X(dx, rdx) X(si, rsi) X(di, rdi) X(orig_ax, orig_rax) X(ip, rip) X(cs, cs) \
	X(flags, eflags) X(sp, rsp) X(ss, ss) X(fs_base, fs_base) X(gs_base, gs_base) X(ds, ds) X(es, es) X(fs, fs) \
	X(gs, gs)

static void save_general(const struct user_regs_struct *r, UserX86RegsEntry *rec)
{
#define SAVE(theirs, ours) rec->theirs = r->ours;
	GENERAL(SAVE)
#undef SAVE
	rec->has_mode = true;
	rec->mode = USER_X86_REGS_MODE__NATIVE;
}

/* Only what is user code's own may be in these; rip and rsp may be anything that exists in a user's half. */
static int check_general(const struct user_regs_struct *r, struct err *err)
{
	if (r->cs == CS_32)
		return err_set(err, EOPNOTSUPP, "registers of a 32-bit program");
	if (r->cs != CS_64 || r->ss != SS_USER)
		return err_set(err, EBADMSG, "segments cs %#llx, ss %#llx", r->cs, r->ss);
	if ((r->ds && r->ds != SS_USER) || (r->es && r->es != SS_USER) || (r->fs && r->fs != SS_USER) ||
	    (r->gs && r->gs != SS_USER))
		return err_set(err, EBADMSG, "segments ds %#llx, es %#llx, fs %#llx, gs %#llx", r->ds, r->es, r->fs, r->gs);
	if (r->rip >= TASK_END || r->rsp > TASK_END || r->fs_base >= TASK_END || r->gs_base >= TASK_END)
		return err_set(err, EBADMSG, "registers outside of user space: rip %#llx, rsp %#llx, bases %#llx, %#llx",
			       r->rip, r->rsp, r->fs_base, r->gs_base);
	if (r->eflags & ~FLAGS_USER)
		return err_set(err, EBADMSG, "flags %#llx", r->eflags);
	return 0;
}

static int load_general(const UserX86RegsEntry *rec, struct user_regs_struct *ret_regs, struct err *err)
{
	struct user_regs_struct r = { 0 };

	if (rec->has_mode && rec->mode != USER_X86_REGS_MODE__NATIVE)
		return err_set(err, EOPNOTSUPP, "registers of a 32-bit program");
#define LOAD(theirs, ours) r.ours = rec->theirs;
	GENERAL(LOAD)
#undef LOAD
	/* whoever wrote the image made the call ready to be made again: the kernel must not do it once more */
	r.orig_rax = (unsigned long long)-1;
	*ret_regs = r;
	return check_general(&r, err);
}

/* An array of the record and the component that it holds. */
struct piece {
	unsigned int component;
	size_t bytes;           /* of the whole array */
	size_t *n;
	void *array;            /* uint32_t ** or uint64_t ** */
	size_t element;
};

#define PIECES 7u

static void pieces_of(UserX86XsaveEntry *x, struct piece p[PIECES])
{
	const struct piece all[PIECES] = {
		{ XSTATE_AVX, 256, &x->n_ymmh_space, &x->ymmh_space, 4 },
		{ XSTATE_BNDREGS, 64, &x->n_bndreg_state, &x->bndreg_state, 8 },
		{ XSTATE_BNDCSR, 64, &x->n_bndcsr_state, &x->bndcsr_state, 8 },
		{ XSTATE_OPMASK, 64, &x->n_opmask_reg, &x->opmask_reg, 8 },
		{ XSTATE_ZMM_HI256, 512, &x->n_zmm_upper, &x->zmm_upper, 8 },
		{ XSTATE_HI16_ZMM, 1024, &x->n_hi16_zmm, &x->hi16_zmm, 8 },
		{ XSTATE_PKRU, 8, &x->n_pkru, &x->pkru, 4 },
	};

	memcpy(p, all, sizeof(all));
}

/* Is the component on this processor, as large as the record has it? */
static bool piece_place(const struct piece *p, size_t *ret_offset)
{
	size_t len;

	return xstate_place(p->component, ret_offset, &len) && len == p->bytes && *ret_offset + len <= xstate_size();
}

static UserX86XsaveEntry *save_xsave(const uint8_t *area)
{
	UserX86XsaveEntry *x = mem_new(sizeof(*x));
	struct piece p[PIECES];
	size_t offset;

	user_x86_xsave_entry__init(x);
	memcpy(&x->xstate_bv, area + XSTATE_HEADER, sizeof(x->xstate_bv));
	pieces_of(x, p);
	for (size_t i = 0; i < PIECES; i++)
		if (piece_place(&p[i], &offset)) {
			*p[i].n = p[i].bytes / p[i].element;
			*(void **)p[i].array = mem_dup(area + offset, p[i].bytes);
		}
	return x;
}

/* struct of FXSAVE: the first 32 bytes of the area */
struct legacy {
	uint16_t cwd, swd, twd, fop;
	uint64_t rip, rdp;
	uint32_t mxcsr, mxcsr_mask;
};

#define LEGACY_ST       32u             /* offsets in the area */
#define LEGACY_XMM      160u
#define ST_WORDS        32u
#define XMM_WORDS       64u

static void save_fp(const uint8_t *area, UserX86FpregsEntry *rec)
{
	struct legacy l;

	memcpy(&l, area, sizeof(l));
	rec->cwd = l.cwd;
	rec->swd = l.swd;
	rec->twd = l.twd;
	rec->fop = l.fop;
	rec->rip = l.rip;
	rec->rdp = l.rdp;
	rec->mxcsr = l.mxcsr;
	rec->mxcsr_mask = l.mxcsr_mask;
	rec->n_st_space = ST_WORDS;
	rec->st_space = mem_dup(area + LEGACY_ST, ST_WORDS * 4);
	rec->n_xmm_space = XMM_WORDS;
	rec->xmm_space = mem_dup(area + LEGACY_XMM, XMM_WORDS * 4);
	rec->xsave = save_xsave(area);
}

static int load_legacy(const UserX86FpregsEntry *rec, uint8_t *area, struct err *err)
{
	struct legacy l = {
		.cwd = (uint16_t)rec->cwd, .swd = (uint16_t)rec->swd, .twd = (uint16_t)rec->twd,
		.fop = (uint16_t)rec->fop, .rip = rec->rip, .rdp = rec->rdp, .mxcsr = rec->mxcsr,
		.mxcsr_mask = xstate_mxcsr_mask(),
	};

	if (rec->n_st_space != ST_WORDS || rec->n_xmm_space != XMM_WORDS)
		return err_set(err, EBADMSG, "%zu words of x87 and %zu of SSE registers", rec->n_st_space, rec->n_xmm_space);
	if ((rec->cwd | rec->swd | rec->twd | rec->fop) > UINT16_MAX)
		return err_set(err, EBADMSG, "x87 control words of over 16 bits");
	if (l.mxcsr & ~l.mxcsr_mask)
		return err_set(err, EBADMSG, "mxcsr %#x has bits outside of this processor's %#x", l.mxcsr, l.mxcsr_mask);
	memcpy(area, &l, sizeof(l));
	memcpy(area + LEGACY_ST, rec->st_space, ST_WORDS * 4);
	memcpy(area + LEGACY_XMM, rec->xmm_space, XMM_WORDS * 4);
	return 0;
}

static int load_xsave(UserX86XsaveEntry *x, uint8_t *area, struct err *err)
{
	struct piece p[PIECES];
	int r;

	r = check_components(x->xstate_bv, IN_RECORD, "no image can hold", err);
	if (r == 0)
		r = check_components(x->xstate_bv, xstate_features(), "this processor does not have", err);
	if (r == 0 && x->cet && x->cet->cet)
		r = err_set(err, EOPNOTSUPP, "the thread had a shadow stack");
	if (r < 0)
		return r;
	pieces_of(x, p);
	for (size_t i = 0; i < PIECES; i++) {
		bool used = x->xstate_bv >> p[i].component & 1;
		size_t offset;

		if (*p[i].n * p[i].element != p[i].bytes && (*p[i].n != 0 || used))
			return err_set(err, EBADMSG, "%zu words of %s", *p[i].n, component_name(p[i].component));
		if (used && !piece_place(&p[i], &offset))
			return err_set(err, EOPNOTSUPP, "%s is of another size on this processor",
				       component_name(p[i].component));
		if (*p[i].n != 0 && piece_place(&p[i], &offset))
			memcpy(area + offset, *(void **)p[i].array, p[i].bytes);
	}
	memcpy(area + XSTATE_HEADER, &x->xstate_bv, sizeof(x->xstate_bv));
	return 0;
}

static int load_fp(const UserX86FpregsEntry *rec, struct thread *t, struct err *err)
{
	const uint64_t legacy_only = 1u << XSTATE_X87 | 1u << XSTATE_SSE;
	own_free uint8_t *area = mem_new(xstate_size());
	int r = load_legacy(rec, area, err);

	if (r == 0 && rec->xsave)
		r = load_xsave(rec->xsave, area, err);
	else if (r == 0)
		memcpy(area + XSTATE_HEADER, &legacy_only, sizeof(legacy_only));
	if (r < 0)
		return r;
	t->xsave_len = xstate_size();
	t->xsave = TAKE_PTR(area);
	return 0;
}

/* The empty descriptors of set_thread_area(), which a 64-bit program does not use. */
static void save_tls(ThreadInfoX86 *info)
{
	info->n_tls = TLS_COUNT;
	info->tls = mem_new(TLS_COUNT * sizeof(info->tls[0]));
	for (unsigned int i = 0; i < TLS_COUNT; i++) {
		info->tls[i] = mem_new(sizeof(*info->tls[i]));
		user_desc_t__init(info->tls[i]);
		info->tls[i]->entry_number = TLS_FIRST + i;
		info->tls[i]->read_exec_only = true;
		info->tls[i]->seg_not_present = true;
	}
}

static void registers_save(const struct thread *t, CoreEntry *core)
{
	save_general(&t->regs, core->thread_info->gpregs);
	save_fp(t->xsave, core->thread_info->fpregs);
	save_tls(core->thread_info);
	core->thread_core->has_interrupted = t->interrupted != 0;
	core->thread_core->interrupted = t->interrupted;
	if (core->tc) {
		core->tc->blk_sigset = t->mask;
	} else {
		core->thread_core->has_blk_sigset = true;
		core->thread_core->blk_sigset = t->mask;
	}
}

static int registers_load(const CoreEntry *core, struct thread *t, struct err *err)
{
	const ThreadInfoX86 *info = core->thread_info;
	int r;

	for (size_t i = 0; i < info->n_tls; i++)
		if (!info->tls[i]->seg_not_present)
			return err_set(err, EOPNOTSUPP, "the thread has a segment of set_thread_area()");
	if (!core->tc && !core->thread_core->has_blk_sigset)
		return err_set(err, EBADMSG, "the thread has no signal mask");
	t->mask = core->tc ? core->tc->blk_sigset : core->thread_core->blk_sigset;
	t->interrupted = core->thread_core->has_interrupted ? core->thread_core->interrupted : 0;
	r = load_general(info->gpregs, &t->regs, err);
	if (r == 0 && t->interrupted && (t->interrupted < CODE_FIRST || t->interrupted > CODE_LAST || t->regs.rip > TASK_END - 8))
		r = err_set(err, EBADMSG, "a call at %#llx that was interrupted with code %u", t->regs.rip, t->interrupted);
	return r < 0 ? r : load_fp(info->fpregs, t, err);
}

const struct thread_kind registers_kind = {
	.name = "registers",
	.lost = "AMX tiles in use and shadow stacks: refused",
	.see = registers_see,
	.save = registers_save,
	.load = registers_load,
};
