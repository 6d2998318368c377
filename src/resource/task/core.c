/* SPDX-License-Identifier: Apache-2.0 */
/* core.c - core images: where the records of all task and thread kinds lie together. */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/mem.h"
#include "resource/resource.h"

static ThreadInfoX86 *new_thread_info(void)
{
	ThreadInfoX86 *info = mem_new(sizeof(*info));

	thread_info_x86__init(info);
	info->gpregs = mem_new(sizeof(*info->gpregs));
	user_x86_regs_entry__init(info->gpregs);
	info->fpregs = mem_new(sizeof(*info->fpregs));
	user_x86_fpregs_entry__init(info->fpregs);
	return info;
}

/* CRIU writes every dead task as TASK_DEAD. */
static bool is_dead(uint32_t state)
{
	return state == TASK_DEAD || state == TASK_ZOMBIE;
}

static TaskCoreEntry *new_task_core(const struct task *t)
{
	TaskCoreEntry *tc = mem_new(sizeof(*tc));

	task_core_entry__init(tc);
	tc->task_state = is_dead(t->state) ? TASK_DEAD : t->state;
	tc->exit_code = (uint32_t)t->exit_code;
	tc->has_stop_signo = t->state == TASK_STOPPED && t->stop_signal != 0;
	tc->stop_signo = t->stop_signal;
	return tc;
}

static void save_task(const struct task *t, CoreEntry *core)
{
	core->tc = new_task_core(t);
	core->tc->timers = mem_new(sizeof(*core->tc->timers));
	task_timers_entry__init(core->tc->timers);
	for (size_t i = 0; task_kinds[i]; i++)
		if (task_kinds[i]->save)
			task_kinds[i]->save(t, core);
}

CoreEntry *core_save(const struct task *t, const struct thread *th)
{
	CoreEntry *core = mem_new(sizeof(*core));

	core_entry__init(core);
	core->mtype = CORE_ENTRY__MARCH__X86_64;
	if (is_dead(t->state)) {
		core->tc = new_task_core(t);
		core->tc->comm = mem_str(th->comm);
		return core;
	}
	core->thread_info = new_thread_info();
	core->thread_core = mem_new(sizeof(*core->thread_core));
	thread_core_entry__init(core->thread_core);
	if (th->tid == t->pid)
		save_task(t, core);
	for (size_t i = 0; thread_kinds[i]; i++)
		thread_kinds[i]->save(th, core);
	return core;
}

static int check_parts(const CoreEntry *core, bool leader, struct err *err)
{
	if (!core->thread_info || !core->thread_core)
		return err_set(err, EBADMSG, "core image without registers or thread");
	if (leader && !core->tc->timers)
		return err_set(err, EBADMSG, "core image without timers");
	return 0;
}

static int load_state(const TaskCoreEntry *tc, struct task *t, struct err *err)
{
	if (tc->task_state != TASK_ALIVE && tc->task_state != TASK_STOPPED && !is_dead(tc->task_state))
		return err_set(err, EBADMSG, "task state %u", tc->task_state);
	if (tc->exit_code > 0xffff)
		return err_set(err, EBADMSG, "exit code %#x", tc->exit_code);
	if (tc->has_stop_signo && tc->stop_signo > SIGNALS)
		return err_set(err, EBADMSG, "task stopped by signal %u", tc->stop_signo);
	t->state = is_dead(tc->task_state) ? TASK_ZOMBIE : (enum task_state)tc->task_state;
	t->exit_code = (int)tc->exit_code;
	t->stop_signal = tc->has_stop_signo ? tc->stop_signo : 0;
	return 0;
}

static int load_kinds(const CoreEntry *core, struct task *t, struct thread *th, bool leader, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && leader && task_kinds[i]; i++) {
		LOG_SCOPE("%s", task_kinds[i]->name);
		r = task_kinds[i]->load ? task_kinds[i]->load(core, t, err) : 0;
	}
	for (size_t i = 0; r >= 0 && thread_kinds[i]; i++) {
		LOG_SCOPE("%s", thread_kinds[i]->name);
		r = thread_kinds[i]->load(core, th, err);
	}
	return r < 0 ? r : 0;
}

int core_load(const CoreEntry *core, struct task *t, struct thread *th, bool leader, struct err *err)
{
	int r;

	if (core->mtype != CORE_ENTRY__MARCH__X86_64)
		return err_set(err, EOPNOTSUPP, "core image of architecture %d", core->mtype);
	if (leader != (core->tc != NULL))
		return err_set(err, EBADMSG, "core image %s a task", leader ? "without" : "of a thread that is");
	if (leader) {
		r = load_state(core->tc, t, err);
		if (r < 0)
			return r;
		if (t->state == TASK_ZOMBIE) {
			snprintf(th->comm, sizeof(th->comm), "%s", core->tc->comm);
			return 0;
		}
	}
	r = check_parts(core, leader, err);
	return r < 0 ? r : load_kinds(core, t, th, leader, err);
}
