/* SPDX-License-Identifier: Apache-2.0 */
/*
 * misc - single values of a task: personality, OOM score, login uid,
 * subreaper, dumpable, no huge pages, AMX permission.
 *
 * Seen in:  /proc/PID from outside; subreaper, dumpable (and what AMX was
 *           allowed, where there is AMX) asked of the task.
 * Made by:  prctl and friends in the vessel, after the credentials, whose
 *           change clears dumpable.
 * Image:    tc.*; dumpable and thp_disabled lie in the mm image, which others
 *           save and load.
 */
#include <errno.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "kernel/arch/x86_64/xstate.h"
#include "kernel/proc_task.h"
#include "resource/resource.h"

#define ARCH_GET_XCOMP_PERM     0x1022          /* Linux 5.16 */
#define ARCH_REQ_XCOMP_PERM     0x1023
#define XCOMP_KNOWN             (1ull << XSTATE_TILE_DATA)      /* all that has to be asked for, to date */

/* ---- see ---- */

static int see_subreaper(struct subject *s, struct task *t, struct err *err)
{
	int32_t is = 0;
	int64_t got;
	int r = view_ask(s, SYS_prctl, (uint64_t[6]){ PR_GET_CHILD_SUBREAPER, s->out }, &got, err);

	if (r == 0 && got == 0)
		r = question_read(s, 0, &is, sizeof(is), err);
	t->subreaper = is != 0;
	return r;
}

static int see_xcomp(struct subject *s, struct task *t, struct err *err)
{
	uint64_t allowed = 0;
	int64_t got;
	int r;

	if (!(xstate_features() & XCOMP_KNOWN))
		return 0;
	r = view_ask(s, SYS_arch_prctl, (uint64_t[6]){ ARCH_GET_XCOMP_PERM, s->out }, &got, err);
	if (r == 0 && got == 0)
		r = question_read(s, 0, &allowed, sizeof(allowed), err);
	t->xcomp = allowed & XCOMP_KNOWN;
	return r;
}

static int ask(struct subject *s, struct task *t, struct err *err)
{
	int64_t got;
	int r = see_subreaper(s, t, err);

	if (r == 0)
		r = view_ask(s, SYS_prctl, (uint64_t[6]){ PR_GET_DUMPABLE }, &got, err);
	if (r == 0)
		t->mm.dumpable = (int)got;
	return r < 0 ? r : see_xcomp(s, t, err);
}

static int misc_see(const struct task_view *v, struct task *t, struct err *err)
{
	pid_t pid = v->stat->pid;
	int r;

	t->flags = v->stat->flags;
	t->mm.thp_disabled = !v->status->thp_enabled;
	t->mm.dumpable = 1;
	r = proc_personality(pid, &t->personality, err);
	if (r >= 0)
		r = proc_oom_score_adj(pid, &t->oom_score_adj, err);
	if (r >= 0)
		r = proc_loginuid(pid, &t->loginuid, err);
	if (r < 0)
		return r;
	if (v->subject->open)
		return ask(v->subject, t, err);
	log_warn("the task can't be asked: taken to be dumpable and no subreaper");
	return 0;
}

/* ---- save, load ---- */

static void misc_save(const struct task *t, CoreEntry *core)
{
	TaskCoreEntry *rec = core->tc;

	rec->personality = t->personality;
	rec->flags = t->flags;
	rec->has_loginuid = rec->has_oom_score_adj = rec->has_child_subreaper = true;
	rec->loginuid = t->loginuid;
	rec->oom_score_adj = t->oom_score_adj;
	rec->child_subreaper = t->subreaper;
	rec->has_xcomp_perm = t->xcomp != 0;
	rec->xcomp_perm = t->xcomp;
}

static int misc_load(const CoreEntry *core, struct task *t, struct err *err)
{
	const TaskCoreEntry *rec = core->tc;

	t->personality = rec->personality;
	t->flags = rec->flags;
	t->loginuid = rec->has_loginuid ? rec->loginuid : UINT32_MAX;
	t->oom_score_adj = rec->has_oom_score_adj ? rec->oom_score_adj : 0;
	t->subreaper = rec->has_child_subreaper && rec->child_subreaper;
	t->xcomp = rec->has_xcomp_perm ? rec->xcomp_perm : 0;
	if (t->personality == UINT32_MAX)
		return err_set(err, EBADMSG, "personality %#x", t->personality);
	if (t->oom_score_adj < -1000 || t->oom_score_adj > 1000)
		return err_set(err, EBADMSG, "oom_score_adj %d", t->oom_score_adj);
	if (t->xcomp & ~XCOMP_KNOWN)
		return err_set(err, EBADMSG, "vector state %#llx asked for", (unsigned long long)t->xcomp);
	if (t->xcomp & ~xstate_features())
		return err_set(err, EOPNOTSUPP, "the task may use AMX, which this processor does not have");
	return 0;
}

/* ---- make ---- */

/* From outside.  Lowering it needs CAP_SYS_RESOURCE: not worth losing the task for. */
static int set_oom_score(pid_t pid, int want, struct err *err)
{
	int now, r = proc_oom_score_adj(pid, &now, err);

	if (r < 0 || now == want)
		return r < 0 ? r : 0;
	r = proc_set_oom_score_adj(pid, want, err);
	if (r == -ESRCH)
		return r;
	if (r < 0)
		log_warn("oom_score_adj stays %d instead of %d: %s", now, want, err->text);
	return 0;
}

static int tell_loginuid(pid_t pid, uint32_t want, struct err *err)
{
	uint32_t now;
	int r = proc_loginuid(pid, &now, err);

	if (r >= 0 && now != want)
		log_warn("login uid is %d instead of %d: only a login sets it", (int)now, (int)want);
	return r < 0 ? r : 0;
}

static int misc_make(const struct task *t, struct vessel *v, struct err *err)
{
	struct script *s = &v->script;
	int r = set_oom_score(v->pid, t->oom_score_adj, err);

	if (r == 0)
		r = tell_loginuid(v->pid, t->loginuid, err);
	if (r < 0)
		return r;
	script_call(s, OP_WANT_OK, SYS_personality, t->personality);
	script_call_as(s, OP_WANT_ZERO, SYS_prctl, "set subreaper", PR_SET_CHILD_SUBREAPER, t->subreaper);
	if (t->xcomp)
		script_call_as(s, OP_WANT_ZERO, SYS_arch_prctl, "ask for AMX", ARCH_REQ_XCOMP_PERM, XSTATE_TILE_DATA);
	script_call_as(s, OP_WANT_ZERO, SYS_prctl, "set use of huge pages", PR_SET_THP_DISABLE, t->mm.thp_disabled);
	/* 2 (root only) can't be set by a program; 0 is its stricter brother */
	script_call_as(s, OP_WANT_ZERO, SYS_prctl, "set dumpable", PR_SET_DUMPABLE, t->mm.dumpable == 1);
	return 0;
}

const struct task_kind misc_kind = {
	.name = "misc",
	.lost = "login uid; an OOM score below ferry's own, without CAP_SYS_RESOURCE",
	.stage = STAGE_LAST,
	.see = misc_see,
	.save = misc_save,
	.load = misc_load,
	.make = misc_make,
};
