/* SPDX-License-Identifier: Apache-2.0 */
/* name - what a thread is called (comm).  Image: thread_core.comm; the leader's in tc.comm as well. */
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/mem.h"
#include "kernel/proc_task.h"
#include "resource/resource.h"

static int name_see(const struct task_view *v, struct subject *s, struct thread *t, struct err *err)
{
	const uint64_t arg[6] = { PR_GET_NAME, s->out };
	int64_t got;
	int r;

	if (!s->open)
		return proc_comm(v->stat->pid, s->tid, t->comm, err);
	r = view_ask(s, SYS_prctl, arg, &got, err);
	if (r == 0 && got < 0)
		r = err_set(err, (int)-got, "ask for the name of thread %d", s->tid);
	if (r == 0)
		r = question_read(s, 0, t->comm, sizeof(t->comm), err);
	t->comm[sizeof(t->comm) - 1] = '\0';
	return r;
}

static void name_save(const struct thread *t, CoreEntry *core)
{
	core->thread_core->comm = mem_str(t->comm);
	if (core->tc)
		core->tc->comm = mem_str(t->comm);
}

static int name_load(const CoreEntry *core, struct thread *t, struct err *err)
{
	const char *name = core->thread_core->comm;

	if (!name)
		name = core->tc ? core->tc->comm : "";
	if (strlen(name) >= sizeof(t->comm))
		return err_set(err, EBADMSG, "a name of %zu bytes", strlen(name));
	strcpy(t->comm, name);
	return 0;
}

static int name_make(const struct task *task, const struct thread *t, struct script *s, struct err *err)
{
	(void)task, (void)err;
	script_call_as(s, OP_WANT_ZERO, SYS_prctl, "set name", PR_SET_NAME, script_data(s, t->comm, sizeof(t->comm)));
	return 0;
}

const struct thread_kind name_kind = {
	.name = "name",
	.see = name_see,
	.save = name_save,
	.load = name_load,
	.make = name_make,
};
