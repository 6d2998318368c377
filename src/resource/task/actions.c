/* SPDX-License-Identifier: Apache-2.0 */
/*
 * actions - what a task does on each signal.
 *
 * Seen in:  SigCgt and SigIgn of /proc/PID/status say which are not default;
 *           those are asked for, each with its flags, mask and restorer.
 * Made by:  rt_sigaction in the vessel, for all: what ferry ignores, its
 *           clones ignore too, CLONE_CLEAR_SIGHAND or not.
 * Image:    tc.sigactions, 62 of them in the order of numbers, SIGKILL and
 *           SIGSTOP left out.
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/mem.h"
#include "resource/resource.h"

#define IN_IMAGE        (SIGNALS - 2)
#define MASK_BYTES      8u

/* struct sigact of the model is the kernel's own, in its order. */
_Static_assert(sizeof(struct sigact) == 32, "as rt_sigaction has it");

static bool fixed(int signal)
{
	return signal == SIGKILL || signal == SIGSTOP;
}

static int ask(struct subject *s, int signal, struct sigact *ret_act, struct err *err)
{
	int64_t got;
	int r = view_ask(s, SYS_rt_sigaction, (uint64_t[6]){ signal, 0, s->out, MASK_BYTES }, &got, err);

	if (r == 0 && got < 0)
		r = err_set(err, (int)-got, "ask for the action of signal %d", signal);
	return r < 0 ? r : question_read(s, 0, ret_act, sizeof(*ret_act), err);
}

static int actions_see(const struct task_view *v, struct task *t, struct err *err)
{
	/* SIGCHLD's flags (SA_NOCLDSTOP, SA_NOCLDWAIT) mean something with the default action too */
	uint64_t set = v->status->sig_cgt | v->status->sig_ign | 1ull << (SIGCHLD - 1);

	if (!v->subject->open && v->status->sig_cgt)
		return err_set(err, EOPNOTSUPP, "the task has signal handlers and can't be asked for them");
	for (int signal = 1; signal <= SIGNALS; signal++) {
		struct sigact *act = &t->actions[signal - 1];
		int r = 0;

		if (fixed(signal) || !(set >> (signal - 1) & 1))
			continue;
		if (v->subject->open)
			r = ask(v->subject, signal, act, err);
		else if (v->status->sig_ign >> (signal - 1) & 1)
			act->handler = (uintptr_t)SIG_IGN;
		if (r < 0)
			return r;
	}
	return 0;
}

static void actions_save(const struct task *t, CoreEntry *core)
{
	size_t n = 0;

	core->tc->sigactions = mem_new(IN_IMAGE * sizeof(core->tc->sigactions[0]));
	for (int signal = 1; signal <= SIGNALS; signal++) {
		const struct sigact *act = &t->actions[signal - 1];
		SaEntry *rec;

		if (fixed(signal))
			continue;
		rec = core->tc->sigactions[n++] = mem_new(sizeof(*rec));
		sa_entry__init(rec);
		rec->sigaction = act->handler;
		rec->flags = act->flags;
		rec->restorer = act->restorer;
		rec->mask = act->mask;
		rec->has_compat_sigaction = true;
	}
	core->tc->n_sigactions = n;
}

static int actions_load(const CoreEntry *core, struct task *t, struct err *err)
{
	size_t n = 0;

	if (core->tc->n_sigactions != IN_IMAGE)
		return err_set(err, EBADMSG, "the task has %zu signal actions", core->tc->n_sigactions);
	for (int signal = 1; signal <= SIGNALS; signal++) {
		const SaEntry *rec;

		if (fixed(signal))
			continue;
		rec = core->tc->sigactions[n++];
		if (rec->compat_sigaction)
			return err_set(err, EOPNOTSUPP, "signal %d has a handler of a 32-bit program", signal);
		t->actions[signal - 1] = (struct sigact){
			.handler = rec->sigaction, .flags = rec->flags, .restorer = rec->restorer, .mask = rec->mask,
		};
	}
	return 0;
}

static int actions_make(const struct task *t, struct vessel *v, struct err *err)
{
	const struct sigact none = { 0 };
	taddr none_at = script_data(&v->script, &none, sizeof(none));

	(void)err;
	for (int signal = 1; signal <= SIGNALS; signal++) {
		const struct sigact *act = &t->actions[signal - 1];
		bool set = act->handler || act->flags || act->restorer || act->mask;

		if (!fixed(signal))
			script_call(&v->script, OP_WANT_ZERO, SYS_rt_sigaction, signal,
				    set ? script_data(&v->script, act, sizeof(*act)) : none_at, 0, MASK_BYTES);
	}
	if (t->actions[SIGTRAP - 1].handler == (uintptr_t)SIG_IGN)
		log_warn("SIGTRAP is ignored no more");         /* vessels stop by it */
	return 0;
}

const struct task_kind actions_kind = {
	.name = "actions",
	.lost = "SIGTRAP ignored",
	.see = actions_see,
	.save = actions_save,
	.load = actions_load,
	.make = actions_make,
};
