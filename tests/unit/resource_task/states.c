/* SPDX-License-Identifier: Apache-2.0 */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "kernel/arch/x86_64/xstate.h"
#include "states.h"

#define USER_END 0x7fffffff0000ull

static uint64_t random_state;           /* one test program, one thread */

void random_seed(uint64_t seed)
{
	random_state = seed;
}

uint64_t random_below(uint64_t limit)   /* splitmix64 */
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	z ^= z >> 31;
	return limit ? z % limit : z;
}

static void random_bytes(void *at, size_t len)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)at)[i] = (uint8_t)random_below(256);
}

static void random_registers(struct thread *t)
{
	random_bytes(&t->regs, sizeof(t->regs));
	t->regs.cs = 0x33;
	t->regs.ss = 0x2b;
	t->regs.ds = t->regs.es = t->regs.gs = 0;
	t->regs.fs = random_below(2) ? 0x2b : 0;
	t->regs.rip = random_below(USER_END);
	t->regs.rsp = random_below(USER_END);
	t->regs.fs_base = random_below(USER_END);
	t->regs.gs_base = random_below(USER_END);
	t->regs.eflags = 0x202 | random_below(0x100);
	t->regs.eflags &= 0xfd7;
	t->regs.orig_rax = (unsigned long long)-1;
}

static void random_xsave(struct thread *t)
{
	static const unsigned int in_record[] = { 2, 3, 4, 5, 6, 7, 9 };
	uint64_t used = random_below(4);
	uint32_t mask = xstate_mxcsr_mask(), mxcsr = (uint32_t)random_below(0) & mask;

	t->xsave_len = xstate_size();
	t->xsave = mem_new(t->xsave_len);
	random_bytes(t->xsave, 416);    /* up to the last xmm register */
	memcpy(t->xsave + 24, &mxcsr, 4);
	memcpy(t->xsave + 28, &mask, 4);
	for (size_t i = 0; i < sizeof(in_record) / sizeof(in_record[0]); i++) {
		size_t offset, len;

		if (!xstate_place(in_record[i], &offset, &len))
			continue;
		used |= random_below(2) << in_record[i];
		random_bytes(t->xsave + offset, len);
	}
	memcpy(t->xsave + XSTATE_HEADER, &used, sizeof(used));
}

static void random_queue(struct signal_queue *q)
{
	for (uint64_t n = random_below(5); n > 0; n--) {
		struct signal_info *i = vec_add(q);
		int32_t signal = (int32_t)random_below(SIGNALS) + 1;

		random_bytes(i->bytes, sizeof(i->bytes));
		memcpy(i->bytes, &signal, sizeof(signal));
	}
}

static void random_creds(struct creds *c)
{
	c->uid = (uint32_t)random_below(70000), c->euid = (uint32_t)random_below(70000);
	c->suid = (uint32_t)random_below(70000), c->fsuid = (uint32_t)random_below(70000);
	c->gid = (uint32_t)random_below(70000), c->egid = (uint32_t)random_below(70000);
	c->sgid = (uint32_t)random_below(70000), c->fsgid = (uint32_t)random_below(70000);
	c->cap_prm = random_below(0);
	c->cap_inh = random_below(0);
	c->cap_bnd = random_below(0);
	c->cap_eff = c->cap_prm & random_below(0);
	c->cap_amb = c->cap_prm & c->cap_inh & random_below(0);
	c->securebits = (uint32_t)random_below(256);
	c->no_new_privs = random_below(2);
	for (uint64_t n = random_below(40); n > 0; n--)
		vec_push(&c->groups, (uint32_t)random_below(UINT32_MAX));
}

static void random_areas(struct thread *t)
{
	t->clear_tid = random_below(USER_END);
	if (random_below(2)) {
		t->robust_head = random_below(USER_END) | 1;
		t->robust_len = 24;
	}
	t->altstack.flags = SS_DISABLE;
	if (random_below(2)) {
		t->altstack.sp = random_below(USER_END / 2);
		t->altstack.size = random_below(1 << 20);
		t->altstack.flags = random_below(2) ? 1u << 31 : 0;
	}
	if (random_below(2)) {
		t->rseq.pointer = (random_below(USER_END / 2) | 32) & ~31ull;
		t->rseq.size = 32;
		t->rseq.signature = (uint32_t)random_below(0);
	}
}

static void random_thread(struct thread *t, pid_t tid)
{
	static const uint32_t policies[] = { SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, SCHED_FIFO, SCHED_RR };

	t->tid = tid;
	for (uint64_t n = random_below(16), i = 0; i < n; i++)
		t->comm[i] = (char)(' ' + random_below(90));
	random_registers(t);
	random_xsave(t);
	random_areas(t);
	t->mask = random_below(0);
	t->interrupted = random_below(2) ? 512 + (uint32_t)random_below(3) : 0;
	t->pdeath_signal = (uint32_t)random_below(SIGNALS + 1);
	t->nice = (int)random_below(40) - 20;
	t->policy = policies[random_below(5)];
	t->priority = t->policy == SCHED_FIFO || t->policy == SCHED_RR ? 1 + (uint32_t)random_below(99) : 0;
	if (random_below(2))
		t->policy |= SCHED_RESET_ON_FORK;
	t->ioprio = random_below(2) ? 2u << 13 | (uint32_t)random_below(8) : 0;
	t->timer_slack_ns = t->priority ? 0 : random_below(2) ? 50000 : 1 + random_below(1000000);
	for (uint64_t n = random_below(4); n > 0; n--)
		vec_push(&t->affinity, random_below(0));
	random_creds(&t->creds);
	random_queue(&t->pending);
}

static void random_timers(struct task *t, unsigned int threads)
{
	const uint64_t seconds_max = 9000000000ull;

	for (int i = 0; i < 3; i++) {
		t->itimers[i].interval_us = random_below(seconds_max * 1000000);
		t->itimers[i].left_us = random_below(seconds_max * 1000000);
	}
	for (uint64_t n = random_below(5), i = 0; i < n; i++) {
		struct posix_timer *p = vec_add(&t->timers);

		p->id = (int)(i * 1000 + random_below(1000));
		p->clock = (int)random_below(12) - 6;
		p->notify = (int)(random_below(2) ? random_below(3) : SIGEV_THREAD_ID);
		p->signal = 1 + (int)random_below(SIGNALS);
		p->sigval = random_below(0);
		p->overrun = (uint32_t)random_below(100);
		p->thread = p->notify == SIGEV_THREAD_ID ? t->pid + (pid_t)random_below(threads) : 0;
		p->interval_ns = random_below(seconds_max * 1000000000);
		p->left_ns = random_below(seconds_max * 1000000000);
	}
}

void random_task(struct task *t, unsigned int threads)
{
	*t = (struct task){ .pid = 1000, .state = random_below(2) ? TASK_ALIVE : TASK_STOPPED };
	t->stop_signal = t->state == TASK_STOPPED ? SIGTSTP : 0;
	t->flags = (uint32_t)random_below(0);
	t->personality = (uint32_t)random_below(UINT32_MAX);
	t->loginuid = (uint32_t)random_below(0);
	t->oom_score_adj = (int)random_below(2001) - 1000;
	t->subreaper = random_below(2);
	t->membarrier = (uint32_t)random_below(0) & 0x154;
	for (int i = 0; i < SIGNALS; i++)
		if (i != SIGKILL - 1 && i != SIGSTOP - 1)
			t->actions[i] = (struct sigact){ random_below(0), random_below(0), random_below(0), random_below(0) };
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		t->limits[i].rlim_max = random_below(0);
		t->limits[i].rlim_cur = random_below(t->limits[i].rlim_max);
	}
	for (unsigned int i = 0; i < threads; i++)
		random_thread(vec_add(&t->threads), t->pid + (pid_t)i);
	random_timers(t, threads);
	random_queue(&t->pending);
}

void task_drop(struct task *t)
{
	for (size_t i = 0; i < t->threads.len; i++)
		thread_free(&t->threads.at[i]);
	vec_free(&t->threads);
	vec_free(&t->timers);
	vec_free(&t->pending);
}

#define SAME(field) assert_int_equal(a->field, b->field)

void same_creds(const struct creds *a, const struct creds *b)
{
	SAME(uid), SAME(euid), SAME(suid), SAME(fsuid), SAME(gid), SAME(egid), SAME(sgid), SAME(fsgid);
	SAME(cap_inh), SAME(cap_prm), SAME(cap_eff), SAME(cap_bnd), SAME(cap_amb);
	SAME(securebits), SAME(no_new_privs), SAME(groups.len);
	for (size_t i = 0; i < a->groups.len; i++)
		SAME(groups.at[i]);
}

void same_queue(const struct signal_queue *a, const struct signal_queue *b)
{
	SAME(len);
	for (size_t i = 0; i < a->len; i++)
		assert_memory_equal(a->at[i].bytes, b->at[i].bytes, sizeof(a->at[i].bytes));
}

void same_thread(const struct thread *a, const struct thread *b)
{
	assert_string_equal(a->comm, b->comm);
	assert_memory_equal(&a->regs, &b->regs, sizeof(a->regs));
	SAME(xsave_len);
	assert_memory_equal(a->xsave, b->xsave, a->xsave_len);
	SAME(mask), SAME(interrupted), SAME(clear_tid), SAME(robust_head), SAME(robust_len);
	SAME(altstack.sp), SAME(altstack.size), SAME(altstack.flags);
	SAME(rseq.pointer), SAME(rseq.size), SAME(rseq.signature);
	SAME(pdeath_signal);
	SAME(nice), SAME(policy), SAME(priority);
	SAME(affinity.len), SAME(ioprio), SAME(timer_slack_ns);
	for (size_t i = 0; i < a->affinity.len; i++)
		SAME(affinity.at[i]);
	same_creds(&a->creds, &b->creds);
	same_queue(&a->pending, &b->pending);
}

static void same_timer(const struct posix_timer *a, const struct posix_timer *b)
{
	SAME(id), SAME(clock), SAME(signal), SAME(notify), SAME(sigval), SAME(overrun), SAME(thread);
	SAME(interval_ns), SAME(left_ns);
}

void same_task(const struct task *a, const struct task *b)
{
	SAME(state), SAME(exit_code), SAME(flags), SAME(personality), SAME(loginuid), SAME(oom_score_adj);
	SAME(subreaper), SAME(stop_signal), SAME(membarrier), SAME(xcomp);
	for (int i = 0; i < SIGNALS; i++)
		assert_memory_equal(&a->actions[i], &b->actions[i], sizeof(a->actions[i]));
	for (int i = 0; i < RLIM_NLIMITS; i++)
		SAME(limits[i].rlim_cur), SAME(limits[i].rlim_max);
	for (int i = 0; i < 3; i++)
		SAME(itimers[i].interval_us), SAME(itimers[i].left_us);
	SAME(timers.len);
	for (size_t i = 0; i < a->timers.len; i++)
		same_timer(&a->timers.at[i], &b->timers.at[i]);
	same_queue(&a->pending, &b->pending);
}
