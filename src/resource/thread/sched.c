/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sched - policy, priority, nice value, processors, I/O priority and timer
 *         slack of a thread.
 *
 * Seen in:  sched_getattr, getpriority, sched_getaffinity, ioprio_get and
 *           /proc/TID/timerslack_ns, all from outside.
 * Made by:  the same by tid, from outside, at once (no script).
 * Image:    thread_core.sched_*; the others in fields of our own, and only when
 *           they are unusual.  Processors: when they are fewer than the machine
 *           has, for a task that may run anywhere may do so on the next
 *           machine too.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc.h"
#include "resource/resource.h"

#define CPUS_MAX        8192u                   /* the largest CONFIG_NR_CPUS */
#define CPU_WORDS       (CPUS_MAX / 64)
#define FLAG_RESET      0x01u                   /* sched_attr.flags: children get the default policy */
#define POLICY_EXT      7u
#define SLACK_USUAL_NS  50000u
#define WHO_PROCESS     1                       /* of ioprio_get(): a thread, in fact */
#define IOPRIO_MAX      0xffffu

struct sched_attr_ {                            /* linux/sched/types.h, first version */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static bool realtime(uint32_t policy)
{
	policy &= ~(uint32_t)SCHED_RESET_ON_FORK;
	return policy == SCHED_FIFO || policy == SCHED_RR;
}

static bool known(uint32_t policy)
{
	policy &= ~(uint32_t)SCHED_RESET_ON_FORK;
	return policy <= SCHED_BATCH || policy == SCHED_IDLE || policy == POLICY_EXT;
}

/* Returns the number of words that are not zero at the end, or -errno. */
static int get_affinity(pid_t tid, uint64_t words[CPU_WORDS])
{
	long len;
	int count;

	memset(words, 0, CPU_WORDS * sizeof(words[0]));
	len = syscall(SYS_sched_getaffinity, tid, CPU_WORDS * sizeof(words[0]), words);
	if (len < 0)
		return -errno;
	for (count = (int)(len / 8); count > 0 && words[count - 1] == 0; count--)
		;
	return count;
}

static bool everywhere(const uint64_t words[CPU_WORDS])
{
	long cpus = 0;

	for (size_t i = 0; i < CPU_WORDS; i++)
		cpus += __builtin_popcountll(words[i]);
	return cpus >= sysconf(_SC_NPROCESSORS_ONLN);
}

static int see_affinity(pid_t tid, pid_t leader, struct thread *t, const struct thread *first, struct err *err)
{
	uint64_t words[CPU_WORDS], lead[CPU_WORDS];
	int count = get_affinity(tid, words);

	if (count < 0)
		return err_set(err, -count, "ask for the processors of thread %d: %s", tid, strerror(-count));
	/* most threads are like their leader: spares asking what the machine has */
	if (first != t && get_affinity(leader, lead) == count && memcmp(words, lead, sizeof(words)) == 0)
		count = (int)first->affinity.len;
	else if (everywhere(words))
		count = 0;
	for (int i = 0; i < count; i++)
		vec_push(&t->affinity, words[i]);
	return 0;
}

/* Asked with the rest: a text less to be read for each thread.  Negative when it can't be an int (64-bit values are). */
static int see_slack(struct subject *s, uint64_t *ret_ns, struct err *err)
{
	const uint64_t arg[6] = { PR_GET_TIMERSLACK };
	pid_t tid = s->tid;
	int64_t answer;

	if (s->open) {
		int asked = view_ask(s, SYS_prctl, arg, &answer, err);

		if (asked < 0)
			return asked;
		if (answer >= 0) {
			*ret_ns = (uint64_t)answer;
			return 0;
		}
	}
	char text[32];
	int r = proc_read(tid, "timerslack_ns", text, sizeof(text), err);

	if (r < 0)
		return r;
	*ret_ns = strtoull(text, NULL, 10);
	return 0;
}

static int sched_see(const struct task_view *v, struct subject *s, struct thread *t, struct err *err)
{
	struct sched_attr_ a = { 0 };
	long prio;
	int r;

	if (syscall(SYS_sched_getattr, s->tid, &a, sizeof(a), 0) < 0)
		return err_sys(err, "ask for the policy of thread %d", s->tid);
	prio = syscall(SYS_getpriority, PRIO_PROCESS, s->tid);
	if (prio < 0)
		return err_sys(err, "ask for the nice value of thread %d", s->tid);
	if (!known(a.policy))
		return err_set(err, EOPNOTSUPP, "thread %d has scheduling policy %u", s->tid, a.policy);
	t->nice = (int)(20 - prio);
	t->policy = a.policy | (a.flags & FLAG_RESET ? SCHED_RESET_ON_FORK : 0);
	t->priority = a.priority;
	prio = syscall(SYS_ioprio_get, WHO_PROCESS, s->tid);
	t->ioprio = prio > 0 ? (uint32_t)prio : 0;
	r = see_slack(s, &t->timer_slack_ns, err);
	return r < 0 ? r : see_affinity(s->tid, v->stat->pid, t, t - (s - v->subjects), err);
}

static void sched_save(const struct thread *t, CoreEntry *core)
{
	ThreadCoreEntry *rec = core->thread_core;

	rec->has_sched_nice = rec->has_sched_policy = true;
	rec->sched_nice = t->nice;
	rec->sched_policy = t->policy;
	rec->has_sched_prio = realtime(t->policy);
	rec->sched_prio = t->priority;
	rec->has_timer_slack_ns = t->timer_slack_ns != 0 && t->timer_slack_ns != SLACK_USUAL_NS;
	rec->timer_slack_ns = t->timer_slack_ns;
	rec->has_ioprio = t->ioprio != 0;
	rec->ioprio = t->ioprio;
	rec->n_affinity = t->affinity.len;
	if (t->affinity.len > 0)
		rec->affinity = mem_dup(t->affinity.at, t->affinity.len * sizeof(uint64_t));
}

static int sched_load(const CoreEntry *core, struct thread *t, struct err *err)
{
	const ThreadCoreEntry *rec = core->thread_core;

	t->nice = rec->has_sched_nice ? rec->sched_nice : 0;
	t->policy = rec->has_sched_policy ? rec->sched_policy : SCHED_OTHER;
	t->priority = rec->has_sched_prio ? rec->sched_prio : 0;
	t->ioprio = rec->has_ioprio ? rec->ioprio : 0;
	t->timer_slack_ns = rec->has_timer_slack_ns ? rec->timer_slack_ns : realtime(t->policy) ? 0 : SLACK_USUAL_NS;
	if (t->nice < -20 || t->nice > 19)
		return err_set(err, EBADMSG, "nice value %d", t->nice);
	if (!known(t->policy))
		return err_set(err, EBADMSG, "scheduling policy %u", t->policy);
	if (realtime(t->policy) ? t->priority < 1 || t->priority > 99 : t->priority != 0)
		return err_set(err, EBADMSG, "priority %u with scheduling policy %u", t->priority, t->policy);
	if (t->ioprio > IOPRIO_MAX)
		return err_set(err, EBADMSG, "I/O priority %#x", t->ioprio);
	if (rec->n_affinity > CPU_WORDS)
		return err_set(err, EBADMSG, "processors up to %zu", rec->n_affinity * 64);
	for (size_t i = 0; i < rec->n_affinity; i++)
		vec_push(&t->affinity, rec->affinity[i]);
	return 0;
}

/* What a vessel has is what ferry has; real-time policies have none. */
static int make_slack(const struct thread *t, struct err *err)
{
	own_fd fd = -1;
	int r;

	if (t->timer_slack_ns == 0 || t->timer_slack_ns == (uint64_t)prctl(PR_GET_TIMERSLACK))
		return 0;
	r = proc_open_file(t->tid, "timerslack_ns", O_WRONLY, &fd, err);
	if (r < 0)
		return r;
	if (dprintf(fd, "%llu", (unsigned long long)t->timer_slack_ns) < 0)
		return err_sys(err, "set the timer slack of thread %d", t->tid);
	return 0;
}

static int sched_make(const struct task *task, const struct thread *t, struct script *s, struct err *err)
{
	const struct sched_attr_ a = {
		.size = sizeof(a), .policy = t->policy & ~(uint32_t)SCHED_RESET_ON_FORK,
		.flags = t->policy & SCHED_RESET_ON_FORK ? FLAG_RESET : 0, .nice = t->nice, .priority = t->priority,
	};

	(void)task, (void)s;
	if (syscall(SYS_sched_setattr, t->tid, &a, 0) < 0)
		return err_sys(err, "set scheduling policy %u, priority %u of thread %d", a.policy, a.priority, t->tid);
	/* only the ordinary policies take it with sched_setattr */
	if (a.policy != SCHED_OTHER && a.policy != SCHED_BATCH && setpriority(PRIO_PROCESS, (id_t)t->tid, t->nice) < 0)
		return err_sys(err, "set nice value %d of thread %d", t->nice, t->tid);
	if (t->ioprio && syscall(SYS_ioprio_set, WHO_PROCESS, t->tid, t->ioprio) < 0)
		return err_sys(err, "set I/O priority %#x of thread %d", t->ioprio, t->tid);
	if (t->affinity.len > 0 &&
	    syscall(SYS_sched_setaffinity, t->tid, t->affinity.len * sizeof(uint64_t), t->affinity.at) < 0)
		log_warn("thread %d was bound to processors that this machine does not have: it may run on any", t->tid);
	return make_slack(t, err);
}

const struct thread_kind sched_kind = {
	.name = "sched",
	.lost = "policy SCHED_DEADLINE: refused; utilisation clamps are reset",
	.see = sched_see,
	.save = sched_save,
	.load = sched_load,
	.make = sched_make,
};
