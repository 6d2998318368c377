/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timers - POSIX timers (timer_create).
 *
 * Seen in:  /proc/PID/timers says what they do; when, and how often nobody
 *           looked, only timer_gettime and timer_getoverrun do.
 * Made by:  timer_create with the number given beforehand (Linux 6.15); older
 *           kernels count up, so numbers in between are made and deleted.
 *           The time left runs from there on.
 * Image:    tc.timers.posix.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernel/proc_task.h"
#include "kernel/sys.h"
#include "resource/resource.h"

#define NS_PER_S        1000000000ull
#define SECONDS_MAX     9223372035ull           /* KTIME_SEC_MAX less one: nanoseconds are added */
#define TIMERS_MAX      65536u
#define ID_MAX_COUNTED  65536                   /* as far as is counted where numbers can't be given */

static uint64_t ns_of(const struct timespec *ts)
{
	return (uint64_t)ts->tv_sec * NS_PER_S + (uint64_t)ts->tv_nsec;
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){ (time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S) };
}

static int ask_times(struct subject *s, struct posix_timer *p, struct err *err)
{
	struct itimerspec it;
	int64_t got;
	int r = view_ask(s, SYS_timer_gettime, (uint64_t[6]){ p->id, s->out }, &got, err);

	if (r == 0 && got < 0)
		r = err_set(err, (int)-got, "ask for timer %d", p->id);
	if (r == 0)
		r = question_read(s, 0, &it, sizeof(it), err);
	if (r != 0)
		return r;
	p->interval_ns = ns_of(&it.it_interval);
	p->left_ns = ns_of(&it.it_value);
	r = view_ask(s, SYS_timer_getoverrun, (uint64_t[6]){ p->id }, &got, err);
	if (r == 0 && got > 0)
		p->overrun = (uint32_t)got;
	return r;
}

static void see_one(const struct proc_timer *from, struct posix_timer *p)
{
	*p = (struct posix_timer){
		.id = from->id, .clock = from->clock, .signal = from->signal, .notify = from->notify, .sigval = from->sigval,
	};
	if (from->notify & SIGEV_THREAD_ID) {
		p->thread = from->target;
		if (p->thread == 0)     /* it is dead: signals to it go nowhere */
			p->notify = SIGEV_NONE;
	}
}

static int timers_see(const struct task_view *v, struct task *t, struct err *err)
{
	struct proc_timers list = { 0 };
	int r = proc_timers(v->stat->pid, &list, err);

	if (r >= 0 && list.len > 0 && !v->subject->open)
		r = err_set(err, EOPNOTSUPP, "the task has %zu timers and can't be asked for them", list.len);
	for (size_t i = 0; r >= 0 && i < list.len; i++) {
		struct posix_timer *p = vec_add(&t->timers);

		see_one(&list.at[i], p);
		r = ask_times(v->subject, p, err);
	}
	vec_free(&list);
	return r < 0 ? r : 0;
}

static void timers_save(const struct task *t, CoreEntry *core)
{
	TaskTimersEntry *list = core->tc->timers;

	list->n_posix = t->timers.len;
	list->posix = mem_new((t->timers.len + 1) * sizeof(list->posix[0]));
	for (size_t i = 0; i < t->timers.len; i++) {
		const struct posix_timer *p = &t->timers.at[i];
		PosixTimerEntry *rec = list->posix[i] = mem_new(sizeof(*rec));

		posix_timer_entry__init(rec);
		rec->it_id = (uint32_t)p->id;
		rec->clock_id = (uint32_t)p->clock;
		rec->si_signo = (uint32_t)p->signal;
		rec->it_sigev_notify = (uint32_t)p->notify;
		rec->sival_ptr = p->sigval;
		rec->overrun = p->overrun;
		rec->isec = p->interval_ns / NS_PER_S;
		rec->insec = p->interval_ns % NS_PER_S;
		rec->vsec = p->left_ns / NS_PER_S;
		rec->vnsec = p->left_ns % NS_PER_S;
		rec->has_notify_thread_id = p->thread != 0;
		rec->notify_thread_id = p->thread;
	}
}

static bool is_thread(const struct task *t, pid_t tid)
{
	for (size_t i = 0; i < t->threads.len; i++)
		if (t->threads.at[i].tid == tid)
			return true;
	return t->threads.len == 0;     /* not known yet */
}

static int check_one(const PosixTimerEntry *rec, const struct task *t, struct err *err)
{
	bool thread = rec->it_sigev_notify == SIGEV_THREAD_ID;

	if (rec->it_id > INT32_MAX)
		return err_set(err, EBADMSG, "timer %u", rec->it_id);
	if (rec->it_sigev_notify > SIGEV_THREAD && !thread)
		return err_set(err, EBADMSG, "timer %u notifies by %u", rec->it_id, rec->it_sigev_notify);
	if (rec->it_sigev_notify != SIGEV_NONE && (rec->si_signo < 1 || rec->si_signo > SIGNALS))
		return err_set(err, EBADMSG, "timer %u sends signal %u", rec->it_id, rec->si_signo);
	if (rec->isec > SECONDS_MAX || rec->vsec > SECONDS_MAX || rec->insec >= NS_PER_S || rec->vnsec >= NS_PER_S)
		return err_set(err, EBADMSG, "timer %u is out of range", rec->it_id);
	if (thread && (!rec->has_notify_thread_id || !is_thread(t, rec->notify_thread_id)))
		return err_set(err, EBADMSG, "timer %u tells a thread that the task does not have", rec->it_id);
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct posix_timer *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

static int timers_load(const CoreEntry *core, struct task *t, struct err *err)
{
	const TaskTimersEntry *list = core->tc->timers;

	if (list->n_posix > TIMERS_MAX)
		return err_set(err, EBADMSG, "%zu timers", list->n_posix);
	for (size_t i = 0; i < list->n_posix; i++) {
		const PosixTimerEntry *rec = list->posix[i];
		int r = check_one(rec, t, err);

		if (r < 0)
			return r;
		vec_push(&t->timers, ((struct posix_timer){
			.id = (int)rec->it_id, .clock = (int)rec->clock_id, .signal = (int)rec->si_signo,
			.notify = (int)rec->it_sigev_notify, .sigval = rec->sival_ptr, .overrun = rec->overrun,
			.thread = rec->it_sigev_notify == SIGEV_THREAD_ID ? rec->notify_thread_id : 0,
			.interval_ns = rec->isec * NS_PER_S + rec->insec, .left_ns = rec->vsec * NS_PER_S + rec->vnsec,
		}));
	}
	if (t->timers.len > 0)
		qsort(t->timers.at, t->timers.len, sizeof(t->timers.at[0]), by_id);
	for (size_t i = 1; i < t->timers.len; i++)
		if (t->timers.at[i].id == t->timers.at[i - 1].id)
			return err_set(err, EBADMSG, "timer %d is there twice", t->timers.at[i].id);
	return 0;
}

static taddr event_of(const struct posix_timer *p, struct script *s)
{
	struct { uint64_t value; int32_t signal, notify, thread, pad[11]; } event = {
		.value = p->sigval, .signal = p->signal, .notify = p->notify, .thread = p->thread,
	};

	_Static_assert(sizeof(event) == 64, "struct sigevent");
	return script_data(s, &event, sizeof(event));
}

static int make_one(const struct posix_timer *p, struct vessel *v, struct err *err)
{
	const struct itimerspec times = { timespec_of(p->interval_ns), timespec_of(p->left_ns) };
	const int32_t id = p->id;
	struct script *s = &v->script;
	int r = vessel_room(v, 4, 256, err);

	if (r < 0)
		return r;
	script_call(s, OP_WANT_ZERO, SYS_timer_create, (uint64_t)(int64_t)p->clock, event_of(p, s),
		    script_data(s, &id, sizeof(id)));
	if (p->interval_ns || p->left_ns)
		script_call(s, OP_WANT_ZERO, SYS_timer_settime, p->id, 0, script_data(s, &times, sizeof(times)), 0);
	else
		script_call(s, OP_WANT_ZERO, SYS_timer_gettime, p->id, script_data(s, &times, sizeof(times)));
	return 0;
}

/* Uses up the numbers from..to-1. */
static int skip_ids(int from, int to, struct vessel *v, struct err *err)
{
	const struct posix_timer none = { .clock = CLOCK_MONOTONIC, .notify = SIGEV_NONE };
	const int32_t out = 0;

	for (int id = from; id < to; id++) {
		int r = vessel_room(v, 4, 256, err);

		if (r < 0)
			return r;
		script_call(&v->script, OP_WANT_ZERO, SYS_timer_create, CLOCK_MONOTONIC, event_of(&none, &v->script),
			    script_data(&v->script, &out, sizeof(out)));
		script_call(&v->script, OP_WANT_ZERO, SYS_timer_delete, id);
	}
	return 0;
}

static int timers_make(const struct task *t, struct vessel *v, struct err *err)
{
	bool give = prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0) >= 0;
	int next = 0, r = 0;

	if (t->timers.len == 0)
		return 0;
	if (!give && t->timers.at[t->timers.len - 1].id > ID_MAX_COUNTED)
		return err_set(err, EOPNOTSUPP, "timer %d: this kernel does not let us choose such a number",
			       t->timers.at[t->timers.len - 1].id);
	if (give)
		script_call_as(&v->script, OP_WANT_ZERO, SYS_prctl, "choose timer numbers", PR_TIMER_CREATE_RESTORE_IDS,
			       PR_TIMER_CREATE_RESTORE_IDS_ON);
	for (size_t i = 0; r == 0 && i < t->timers.len; i++) {
		const struct posix_timer *p = &t->timers.at[i];

		if (!give)
			r = skip_ids(next, p->id, v, err);
		if (r == 0)
			r = make_one(p, v, err);
		next = p->id + 1;
	}
	if (r == 0 && give)
		script_call_as(&v->script, OP_WANT_ZERO, SYS_prctl, "choose timer numbers no more",
			       PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_OFF);
	return r;
}

const struct task_kind timers_kind = {
	.name = "timers",
	.lost = "overrun counts; which thread's processor time a timer counts, when it is not the leader's",
	.see = timers_see,
	.save = timers_save,
	.load = timers_load,
	.make = timers_make,
};
