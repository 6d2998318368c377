/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limits - resource limits (setrlimit).
 *
 * Seen in:  /proc/PID/limits (prlimit is refused for tasks of other users
 *           without CAP_SYS_RESOURCE).
 * Made by:  prlimit64 in the vessel, while it may still raise them; that of
 *           queued signals, which timers count for too, is lowered at the end.
 * Image:    tc.rlimits, all 16 in the order of RLIMIT_ numbers.
 */
#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernel/proc_task.h"
#include "resource/resource.h"

static int limits_see(const struct task_view *v, struct task *t, struct err *err)
{
	return proc_limits(v->stat->pid, t->limits, err);
}

static void limits_save(const struct task *t, CoreEntry *core)
{
	TaskRlimitsEntry *rec = mem_new(sizeof(*rec));

	task_rlimits_entry__init(rec);
	rec->n_rlimits = RLIM_NLIMITS;
	rec->rlimits = mem_new(RLIM_NLIMITS * sizeof(rec->rlimits[0]));
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		rec->rlimits[i] = mem_new(sizeof(*rec->rlimits[i]));
		rlimit_entry__init(rec->rlimits[i]);
		rec->rlimits[i]->cur = t->limits[i].rlim_cur;
		rec->rlimits[i]->max = t->limits[i].rlim_max;
	}
	core->tc->rlimits = rec;
}

static int limits_load(const CoreEntry *core, struct task *t, struct err *err)
{
	const TaskRlimitsEntry *rec = core->tc->rlimits;

	if (!rec || rec->n_rlimits != RLIM_NLIMITS)
		return err_set(err, EBADMSG, "the task has %zu resource limits", rec ? rec->n_rlimits : 0);
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		if (rec->rlimits[i]->cur > rec->rlimits[i]->max)
			return err_set(err, EBADMSG, "resource limit %d is over its own maximum", i);
		t->limits[i].rlim_cur = rec->rlimits[i]->cur;
		t->limits[i].rlim_max = rec->rlimits[i]->max;
	}
	return 0;
}

/* Does ferry, and so a vessel, have CAP_SYS_RESOURCE? */
static bool may_raise(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	return syscall(SYS_capget, &head, data) == 0 && (data[0].effective >> CAP_SYS_RESOURCE & 1);
}

static int limits_make(const struct task *t, struct vessel *v, struct err *err)
{
	bool raise = may_raise();

	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit64 now, want = t->limits[i];

		if (prlimit64(v->pid, i, NULL, &now) < 0)
			return err_sys(err, "read resource limit %d of a vessel", i);
		if (want.rlim_max > now.rlim_max && !raise) {
			log_warn("resource limit %d stays at most %llu: raising it needs CAP_SYS_RESOURCE", i,
				 (unsigned long long)now.rlim_max);
			want.rlim_max = now.rlim_max;
			if (want.rlim_cur > want.rlim_max)
				want.rlim_cur = want.rlim_max;
		}
		if (i == RLIMIT_SIGPENDING)     /* as much as can be, until all is queued */
			want.rlim_cur = want.rlim_max = raise ? RLIM64_INFINITY : now.rlim_max;
		if (memcmp(&want, &now, sizeof(now)) != 0)
			script_call(&v->script, OP_WANT_ZERO, SYS_prlimit64, 0, i,
				    script_data(&v->script, &want, sizeof(want)), 0);
	}
	return 0;
}

const struct task_kind limits_kind = {
	.name = "limits",
	.lost = "hard limits over ferry's own, without CAP_SYS_RESOURCE",
	.see = limits_see,
	.save = limits_save,
	.load = limits_load,
	.make = limits_make,
};

/* Lowering needs no rights; what may not be raised is as low as ferry's own. */
static int queue_limit_make(const struct task *t, struct vessel *v, struct err *err)
{
	struct rlimit64 want = t->limits[RLIMIT_SIGPENDING], own;

	if (prlimit64(0, RLIMIT_SIGPENDING, NULL, &own) < 0)
		return err_sys(err, "read our own limit of queued signals");
	if (!may_raise() && want.rlim_max > own.rlim_max) {
		want.rlim_max = own.rlim_max;
		want.rlim_cur = want.rlim_cur < want.rlim_max ? want.rlim_cur : want.rlim_max;
	}
	script_call(&v->script, OP_WANT_ZERO, SYS_prlimit64, 0, RLIMIT_SIGPENDING,
		    script_data(&v->script, &want, sizeof(want)), 0);
	return 0;
}

const struct task_kind queue_limit_kind = {
	.name = "limit of queued signals",
	.stage = STAGE_LAST,
	.make = queue_limit_make,
};
