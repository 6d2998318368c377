/* SPDX-License-Identifier: Apache-2.0 */
/*
 * itimers - the three interval timers of setitimer().
 *
 * Seen in:  getitimer, asked of the task.
 * Made by:  setitimer in the vessel: the time left runs from there on.
 * Image:    tc.timers.real, virt, prof.
 */
#include <errno.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "base/log.h"
#include "base/mem.h"
#include "resource/resource.h"

#define US_PER_S        1000000ull
#define SECONDS_MAX     9223372036ull           /* KTIME_SEC_MAX */

static int itimers_see(const struct task_view *v, struct task *t, struct err *err)
{
	for (int which = 0; which < 3; which++) {
		struct itimerval it;
		int64_t got;
		int r;

		if (!v->subject->open) {
			log_warn("the task can't be asked: taken to have no interval timers");
			return 0;
		}
		r = view_ask(v->subject, SYS_getitimer, (uint64_t[6]){ which, v->subject->out }, &got, err);
		if (r == 0 && got < 0)
			r = err_set(err, (int)-got, "ask for interval timer %d", which);
		if (r == 0)
			r = question_read(v->subject, 0, &it, sizeof(it), err);
		if (r != 0)
			return r;
		t->itimers[which].interval_us = (uint64_t)it.it_interval.tv_sec * US_PER_S + (uint64_t)it.it_interval.tv_usec;
		t->itimers[which].left_us = (uint64_t)it.it_value.tv_sec * US_PER_S + (uint64_t)it.it_value.tv_usec;
		/* It went off and its signal waits: the kernel sets it anew when that is taken, but not one that was made without time. */
		if (t->itimers[which].interval_us && t->itimers[which].left_us == 0)
			t->itimers[which].left_us = 1;
	}
	return 0;
}

static ItimerEntry *save_one(uint64_t interval_us, uint64_t left_us)
{
	ItimerEntry *rec = mem_new(sizeof(*rec));

	itimer_entry__init(rec);
	rec->isec = interval_us / US_PER_S;
	rec->iusec = interval_us % US_PER_S;
	rec->vsec = left_us / US_PER_S;
	rec->vusec = left_us % US_PER_S;
	return rec;
}

static void itimers_save(const struct task *t, CoreEntry *core)
{
	TaskTimersEntry *rec = core->tc->timers;

	rec->real = save_one(t->itimers[ITIMER_REAL].interval_us, t->itimers[ITIMER_REAL].left_us);
	rec->virt = save_one(t->itimers[ITIMER_VIRTUAL].interval_us, t->itimers[ITIMER_VIRTUAL].left_us);
	rec->prof = save_one(t->itimers[ITIMER_PROF].interval_us, t->itimers[ITIMER_PROF].left_us);
}

static int itimers_load(const CoreEntry *core, struct task *t, struct err *err)
{
	const TaskTimersEntry *rec = core->tc->timers;
	const ItimerEntry *all[3] = { rec->real, rec->virt, rec->prof };

	for (int which = 0; which < 3; which++) {
		const ItimerEntry *it = all[which];

		if (it->isec > SECONDS_MAX || it->vsec > SECONDS_MAX || it->iusec >= US_PER_S || it->vusec >= US_PER_S)
			return err_set(err, EBADMSG, "interval timer %d is out of range", which);
		t->itimers[which].interval_us = it->isec * US_PER_S + it->iusec;
		t->itimers[which].left_us = it->vsec * US_PER_S + it->vusec;
	}
	return 0;
}

static int itimers_make(const struct task *t, struct vessel *v, struct err *err)
{
	(void)err;
	for (int which = 0; which < 3; which++) {
		const uint64_t interval = t->itimers[which].interval_us, left = t->itimers[which].left_us;
		const struct itimerval it = {
			.it_interval = { (time_t)(interval / US_PER_S), (suseconds_t)(interval % US_PER_S) },
			.it_value = { (time_t)(left / US_PER_S), (suseconds_t)(left % US_PER_S) },
		};

		if (interval || left)
			script_call(&v->script, OP_WANT_ZERO, SYS_setitimer, which,
				    script_data(&v->script, &it, sizeof(it)), 0);
	}
	return 0;
}

const struct task_kind itimers_kind = {
	.name = "itimers",
	.see = itimers_see,
	.save = itimers_save,
	.load = itimers_load,
	.make = itimers_make,
};
