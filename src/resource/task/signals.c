/* SPDX-License-Identifier: Apache-2.0 */
/*
 * signals - signals that were sent and not taken yet: pending_kind for those
 * sent to the task, queue_kind for those sent to one of its threads.
 *
 * Seen in:  PTRACE_PEEKSIGINFO, oldest first.
 * Made by:  rt_sigqueueinfo and rt_tgsigqueueinfo to oneself, for only then
 *           may the siginfo be one of the kernel's own.  A vessel blocks every
 *           signal but SIGTRAP, so they wait.
 * Image:    tc.signals_s, thread_core.signals_p: siginfo_t as bytes.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "resource/resource.h"

#define PEEK            64                      /* signals a call */
#define QUEUE_MAX       (1u << 20)
#define DRAIN           4                       /* signals that a vessel may have got meanwhile */
#define INFO_BYTES      sizeof(struct signal_info)

_Static_assert(INFO_BYTES == sizeof(siginfo_t), "as the kernel has it");

static siginfo_t info_of(const struct signal_info *i)
{
	siginfo_t info;

	memcpy(&info, i->bytes, sizeof(info));
	return info;
}

/* ---- see ---- */

static int peek(pid_t tid, unsigned int flags, struct signal_queue *q, struct err *err)
{
	struct __ptrace_peeksiginfo_args args = { .flags = flags, .nr = PEEK };
	struct signal_info some[PEEK];
	long got;

	do {
		got = ptrace(PTRACE_PEEKSIGINFO, tid, &args, some);
		if (got < 0)
			return err_sys(err, "read the pending signals of thread %d", tid);
		for (long i = 0; i < got; i++)
			vec_push(q, some[i]);
		args.off += (uint64_t)got;
	} while (got == PEEK && q->len < QUEUE_MAX);
	return 0;
}

static int pending_see(const struct task_view *v, struct task *t, struct err *err)
{
	return peek(v->subject->tid, PTRACE_PEEKSIGINFO_SHARED, &t->pending, err);
}

static int queue_see(const struct task_view *v, struct subject *s, struct thread *t, struct err *err)
{
	(void)v;
	return peek(s->tid, 0, &t->pending, err);
}

/* ---- save, load ---- */

static SignalQueueEntry *save_queue(const struct signal_queue *q)
{
	SignalQueueEntry *rec = mem_new(sizeof(*rec));

	signal_queue_entry__init(rec);
	rec->n_signals = q->len;
	rec->signals = mem_new((q->len + 1) * sizeof(rec->signals[0]));
	for (size_t i = 0; i < q->len; i++) {
		rec->signals[i] = mem_new(sizeof(*rec->signals[i]));
		siginfo_entry__init(rec->signals[i]);
		rec->signals[i]->siginfo.len = INFO_BYTES;
		rec->signals[i]->siginfo.data = mem_dup(q->at[i].bytes, INFO_BYTES);
	}
	return rec;
}

static int load_queue(const SignalQueueEntry *rec, struct signal_queue *q, struct err *err)
{
	if (!rec)
		return 0;
	if (rec->n_signals > QUEUE_MAX)
		return err_set(err, EBADMSG, "%zu pending signals", rec->n_signals);
	for (size_t i = 0; i < rec->n_signals; i++) {
		const ProtobufCBinaryData *from = &rec->signals[i]->siginfo;
		struct signal_info *info;

		if (from->len != INFO_BYTES)
			return err_set(err, EBADMSG, "a pending signal of %zu bytes", from->len);
		info = vec_add(q);
		memcpy(info->bytes, from->data, INFO_BYTES);
		if (info_of(info).si_signo < 1 || info_of(info).si_signo > SIGNALS)
			return err_set(err, EBADMSG, "pending signal %d", info_of(info).si_signo);
	}
	return 0;
}

static void pending_save(const struct task *t, CoreEntry *core)
{
	core->tc->signals_s = save_queue(&t->pending);
}

static int pending_load(const CoreEntry *core, struct task *t, struct err *err)
{
	return load_queue(core->tc->signals_s, &t->pending, err);
}

static void queue_save(const struct thread *t, CoreEntry *core)
{
	core->thread_core->signals_p = save_queue(&t->pending);
}

static int queue_load(const CoreEntry *core, struct thread *t, struct err *err)
{
	return load_queue(core->thread_core->signals_p, &t->pending, err);
}

/* ---- make ---- */

/* SIGTRAP ends a vessel's script, SIGSTOP and SIGKILL can't be blocked. */
static bool can_wait(const siginfo_t *info)
{
	bool can = info->si_signo != SIGTRAP && info->si_signo != SIGSTOP && info->si_signo != SIGKILL;

	if (!can)
		log_warn("pending signal %d is lost", info->si_signo);
	return can;
}

static uint64_t bit(int signal)
{
	return 1ull << (signal - 1);
}

/* Signals of the task's own timers, which tick already, and those that the leader's queue_kind has put there. */
static uint64_t own_signals(const struct task *t)
{
	static const int of_itimers[3] = { SIGALRM, SIGVTALRM, SIGPROF };
	uint64_t set = 0;

	for (int i = 0; i < 3; i++)
		if (t->itimers[i].left_us)
			set |= bit(of_itimers[i]);
	for (size_t i = 0; i < t->timers.len; i++)
		if (t->timers.at[i].notify != SIGEV_NONE)
			set |= bit(t->timers.at[i].signal);
	for (size_t i = 0; i < t->threads.at[0].pending.len; i++)
		set |= bit(info_of(&t->threads.at[0].pending.at[i]).si_signo);
	return set;
}

static void drain(const struct task *t, struct script *s)
{
	const uint64_t set = ~own_signals(t);
	const struct timespec now = { 0 };
	taddr set_at = script_data(s, &set, sizeof(set)), now_at = script_data(s, &now, sizeof(now));

	for (int i = 0; i < DRAIN; i++)
		script_call(s, OP_WANT_ANY, SYS_rt_sigtimedwait, set_at, 0, now_at, sizeof(set));
}

static int pending_make(const struct task *t, struct vessel *v, struct err *err)
{
	drain(t, &v->script);
	for (size_t i = 0; i < t->pending.len; i++) {
		siginfo_t info = info_of(&t->pending.at[i]);
		int r = vessel_room(v, 1, INFO_BYTES, err);

		if (r < 0)
			return r;
		if (can_wait(&info))
			script_call(&v->script, OP_WANT_ZERO, SYS_rt_sigqueueinfo, t->pid, info.si_signo,
				    script_data(&v->script, &info, sizeof(info)));
	}
	return 0;
}

/* What does not fit into a thread's script may be sent from outside, as long as it says to come from a program. */
static int send_from_outside(const struct task *task, const struct thread *t, struct err *err)
{
	for (size_t i = 0; i < t->pending.len; i++) {
		siginfo_t info = info_of(&t->pending.at[i]);

		if (!can_wait(&info))
			continue;
		if (info.si_code >= 0 || info.si_code == SI_TKILL)
			return err_set(err, EOPNOTSUPP, "thread %d has %zu pending signals", t->tid, t->pending.len);
		if (syscall(SYS_rt_tgsigqueueinfo, task->pid, t->tid, info.si_signo, &info) < 0)
			return err_sys(err, "queue signal %d to thread %d", info.si_signo, t->tid);
	}
	return 0;
}

static int queue_make(const struct task *task, const struct thread *t, struct script *s, struct err *err)
{
	if (!script_fits(s, t->pending.len, t->pending.len * INFO_BYTES))
		return send_from_outside(task, t, err);
	for (size_t i = 0; i < t->pending.len; i++) {
		siginfo_t info = info_of(&t->pending.at[i]);

		if (can_wait(&info))
			script_call(s, OP_WANT_ZERO, SYS_rt_tgsigqueueinfo, task->pid, t->tid, info.si_signo,
				    script_data(s, &info, sizeof(info)));
	}
	return 0;
}

const struct task_kind pending_kind = {
	.name = "pending",
	.lost = "pending SIGTRAP and SIGSTOP",
	.stage = STAGE_LAST,
	.see = pending_see,
	.save = pending_save,
	.load = pending_load,
	.make = pending_make,
};

const struct thread_kind queue_kind = {
	.name = "queue",
	.lost = "pending SIGTRAP and SIGSTOP",
	.see = queue_see,
	.save = queue_save,
	.load = queue_load,
	.make = queue_make,
};
