/* SPDX-License-Identifier: Apache-2.0 */
/*
 * areas - places in its memory that a thread has told the kernel of: alternate
 * signal stack, robust futexes, the word cleared at its end, rseq.
 *
 * Seen in:  get_robust_list() and ptrace from outside; sigaltstack() and
 *           prctl(PR_GET_TID_ADDRESS) asked of the thread.
 * Made by:  the same calls in the thread.  All threads but the leader are
 *           cloned with their clear_tid.
 * Image:    thread_core.sas, futex_rla, rseq_entry; thread_info.clear_tid_addr.
 */
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernel/sys.h"
#include "resource/resource.h"

#define TASK_END                0x7ffffffff000ull
#define ROBUST_LEN              24u             /* the only one that the kernel takes */
#define RSEQ_LEN_MIN            32u
#define RSEQ_LEN_MAX            4096u
#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS      40
#endif
#define SS_AUTODISARM_          (1u << 31)

struct altstack { uint64_t sp; uint32_t flags, pad; uint64_t size; };   /* stack_t */

static int see_altstack(struct subject *s, struct thread *t, struct err *err)
{
	struct altstack ss;
	int64_t got;
	int r = view_ask(s, SYS_sigaltstack, (uint64_t[6]){ 0, s->out }, &got, err);

	if (r == 0 && got < 0)
		r = err_set(err, (int)-got, "ask thread %d for its signal stack", s->tid);
	if (r == 0)
		r = question_read(s, 0, &ss, sizeof(ss), err);
	if (r != 0)
		return r;
	t->altstack.sp = ss.sp;
	t->altstack.size = ss.size;
	t->altstack.flags = ss.flags & ~(uint32_t)SS_ONSTACK;   /* the stack pointer tells that */
	return 0;
}

static int see_clear_tid(struct subject *s, struct thread *t, struct err *err)
{
	int64_t got;
	int r = view_ask(s, SYS_prctl, (uint64_t[6]){ PR_GET_TID_ADDRESS, s->out }, &got, err);

	if (r == 0 && got < 0)
		r = err_set(err, (int)-got, "ask thread %d for its clear_child_tid", s->tid);
	return r < 0 ? r : question_read(s, 0, &t->clear_tid, sizeof(t->clear_tid), err);
}

/* glibc has the thread's number, which the kernel clears, right before its list of robust futexes. */
static void guess(struct subject *s, struct thread *t)
{
	struct err ignored;
	int32_t word = 0;

	t->altstack.flags = SS_DISABLE;
	if (t->robust_head > 16 && sys_read_memory(s->tid, t->robust_head - 16, &word, sizeof(word), &ignored) >= 0 &&
	    word == s->tid)
		t->clear_tid = t->robust_head - 16;
	log_warn("thread %d can't be asked: taken to have no signal stack, and %#llx cleared at its end", s->tid,
		 (unsigned long long)t->clear_tid);
}

static int areas_see(const struct task_view *v, struct subject *s, struct thread *t, struct err *err)
{
	size_t len;
	int r;

	(void)v;
	r = sys_get_robust_list(s->tid, &t->robust_head, &len, err);
	if (r < 0)
		return r;
	t->robust_len = t->robust_head ? len : 0;
	t->rseq.pointer = s->rseq.pointer;
	t->rseq.size = s->rseq.pointer ? s->rseq.size : 0;
	t->rseq.signature = s->rseq.pointer ? s->rseq.signature : 0;
	if (!s->open) {
		guess(s, t);
		return 0;
	}
	r = see_altstack(s, t, err);
	return r < 0 ? r : see_clear_tid(s, t, err);
}

static void areas_save(const struct thread *t, CoreEntry *core)
{
	ThreadCoreEntry *rec = core->thread_core;

	core->thread_info->clear_tid_addr = t->clear_tid;
	rec->futex_rla = t->robust_head;
	rec->futex_rla_len = (uint32_t)t->robust_len;
	rec->sas = mem_new(sizeof(*rec->sas));
	thread_sas_entry__init(rec->sas);
	rec->sas->ss_sp = t->altstack.sp;
	rec->sas->ss_size = t->altstack.size;
	rec->sas->ss_flags = t->altstack.flags;
	if (t->rseq.pointer == 0)
		return;
	rec->rseq_entry = mem_new(sizeof(*rec->rseq_entry));
	rseq_entry__init(rec->rseq_entry);
	rec->rseq_entry->rseq_abi_pointer = t->rseq.pointer;
	rec->rseq_entry->rseq_abi_size = t->rseq.size;
	rec->rseq_entry->signature = t->rseq.signature;
}

static bool in_user_space(uint64_t at, uint64_t len)
{
	return at < TASK_END && len <= TASK_END - at;
}

static int load_altstack(const ThreadSasEntry *rec, struct thread *t, struct err *err)
{
	uint32_t flags = rec->ss_flags & ~(uint32_t)SS_ONSTACK;

	if (flags & ~(SS_DISABLE | SS_AUTODISARM_))
		return err_set(err, EBADMSG, "signal stack has flags %#x", rec->ss_flags);
	if (!(flags & SS_DISABLE) && !in_user_space(rec->ss_sp, rec->ss_size))
		return err_set(err, EBADMSG, "signal stack of %llu bytes at %#llx", (unsigned long long)rec->ss_size,
			       (unsigned long long)rec->ss_sp);
	t->altstack.sp = rec->ss_sp;
	t->altstack.size = rec->ss_size;
	t->altstack.flags = flags;
	return 0;
}

static int load_rseq(const RseqEntry *rec, struct thread *t, struct err *err)
{
	if (rec->rseq_abi_pointer == 0)
		return 0;
	if (rec->rseq_abi_size < RSEQ_LEN_MIN || rec->rseq_abi_size > RSEQ_LEN_MAX || rec->rseq_abi_pointer % 32 ||
	    !in_user_space(rec->rseq_abi_pointer, rec->rseq_abi_size))
		return err_set(err, EBADMSG, "rseq area of %u bytes at %#llx", rec->rseq_abi_size,
			       (unsigned long long)rec->rseq_abi_pointer);
	t->rseq.pointer = rec->rseq_abi_pointer;
	t->rseq.size = rec->rseq_abi_size;
	t->rseq.signature = rec->signature;
	return 0;
}

static int areas_load(const CoreEntry *core, struct thread *t, struct err *err)
{
	const ThreadCoreEntry *rec = core->thread_core;
	uint64_t clear = core->thread_info->clear_tid_addr;
	int r = 0;

	if (!in_user_space(clear, 4))
		return err_set(err, EBADMSG, "clear_child_tid %#llx", (unsigned long long)clear);
	if (rec->futex_rla != 0 && (rec->futex_rla_len != ROBUST_LEN || !in_user_space(rec->futex_rla, ROBUST_LEN)))
		return err_set(err, EBADMSG, "robust list of %u bytes at %#llx", rec->futex_rla_len,
			       (unsigned long long)rec->futex_rla);
	t->clear_tid = clear;
	t->robust_head = rec->futex_rla;
	t->robust_len = rec->futex_rla ? rec->futex_rla_len : 0;
	t->altstack.flags = SS_DISABLE;
	if (rec->sas)
		r = load_altstack(rec->sas, t, err);
	if (r == 0 && rec->rseq_entry)
		r = load_rseq(rec->rseq_entry, t, err);
	return r;
}

static int areas_make(const struct task *task, const struct thread *t, struct script *s, struct err *err)
{
	const struct altstack ss = { .sp = t->altstack.sp, .flags = t->altstack.flags, .size = t->altstack.size };

	(void)err;
	if (!(t->altstack.flags & SS_DISABLE))
		script_call(s, OP_WANT_ZERO, SYS_sigaltstack, script_data(s, &ss, sizeof(ss)), 0);
	if (t->robust_head)
		script_call(s, OP_WANT_ZERO, SYS_set_robust_list, t->robust_head, t->robust_len);
	if (t->tid == task->pid)
		script_call(s, OP_WANT_OK, SYS_set_tid_address, t->clear_tid);
	if (t->rseq.pointer)
		script_call(s, OP_WANT_ZERO, SYS_rseq, t->rseq.pointer, t->rseq.size, 0, t->rseq.signature);
	return 0;
}

const struct thread_kind areas_kind = {
	.name = "areas",
	.see = areas_see,
	.save = areas_save,
	.load = areas_load,
	.make = areas_make,
};
