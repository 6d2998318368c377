/* SPDX-License-Identifier: Apache-2.0 */
/* The image half: load(save(x)) == x through packed bytes, and records that no kernel wrote are refused. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/arch/x86_64/xstate.h"
#include "resource/resource.h"
#include "states.h"

#define ROUNDS 300

/* What a reader of the image would get. */
static CoreEntry *through_bytes(CoreEntry *core)
{
	size_t len = core_entry__get_packed_size(core);
	own_free uint8_t *bytes = mem_new(len);
	CoreEntry *back;

	assert_int_equal(core_entry__pack(core, bytes), len);
	core_entry__free_unpacked(core, NULL);
	back = core_entry__unpack(NULL, len, bytes);
	assert_non_null(back);
	return back;
}

static void check_round(void)
{
	struct task x, y = { 0 };
	struct err err = { 0 };

	random_task(&x, 3);
	y.pid = x.pid;
	for (size_t i = 0; i < x.threads.len; i++) {
		CoreEntry *core = through_bytes(core_save(&x, &x.threads.at[i]));
		struct thread *th = vec_add(&y.threads);

		th->tid = x.threads.at[i].tid;
		if (i == 0)     /* timers may name threads: all are known before the leader's is loaded */
			for (size_t k = 1; k < x.threads.len; k++)
				vec_push(&y.threads, ((struct thread){ .tid = x.threads.at[k].tid }));
		th = &y.threads.at[i];
		if (core_load(core, &y, th, i == 0, &err) != 0)
			fail_msg("%s: %s", err.scope, err.text);
		if (i == 0)
			y.threads.len = 1;
		same_thread(&x.threads.at[i], th);
		core_entry__free_unpacked(core, NULL);
	}
	same_task(&x, &y);
	task_drop(&x);
	task_drop(&y);
}

static void save_and_load(void **state)
{
	uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : (uint64_t)time(NULL);

	(void)state;
	printf("SEED=%llu\n", (unsigned long long)seed);
	random_seed(seed);
	for (int i = 0; i < ROUNDS; i++)
		check_round();
}

static void dead_task(void **state)
{
	struct task x = { .pid = 1000, .state = TASK_ZOMBIE, .exit_code = 0x700 }, y = { .pid = 1000 };
	struct thread leader = { .tid = 1000, .comm = "gone" }, back = { .tid = 1000 };
	CoreEntry *core = through_bytes(core_save(&x, &leader));
	struct err err;

	(void)state;
	assert_int_equal(core->tc->task_state, TASK_DEAD);
	assert_string_equal(core->tc->comm, "gone");
	assert_int_equal(core_load(core, &y, &back, true, &err), 0);
	assert_int_equal(y.state, TASK_ZOMBIE);
	assert_string_equal(back.comm, "gone");
	assert_int_equal(y.exit_code, 0x700);
	core_entry__free_unpacked(core, NULL);
}

/* ---- hostile records: one thing is wrong in an otherwise good one ---- */

struct bad {
	const char *what;
	int code;
	void (*spoil)(CoreEntry *core);
};

#define BAD(name, change) static void name(CoreEntry *c) { change; }

BAD(no_registers, thread_info_x86__free_unpacked(c->thread_info, NULL); c->thread_info = NULL)
BAD(no_thread, thread_core_entry__free_unpacked(c->thread_core, NULL); c->thread_core = NULL)
BAD(no_task, task_core_entry__free_unpacked(c->tc, NULL); c->tc = NULL)
BAD(no_timers, task_timers_entry__free_unpacked(c->tc->timers, NULL); c->tc->timers = NULL)
BAD(no_creds, creds_entry__free_unpacked(c->thread_core->creds, NULL); c->thread_core->creds = NULL)
BAD(no_limits, task_rlimits_entry__free_unpacked(c->tc->rlimits, NULL); c->tc->rlimits = NULL)
BAD(other_machine, c->mtype = CORE_ENTRY__MARCH__AARCH64)
BAD(state, c->tc->task_state = 77)
BAD(exit_code, c->tc->exit_code = 0x10000)
BAD(kernel_cs, c->thread_info->gpregs->cs = 0x10)
BAD(compat_cs, c->thread_info->gpregs->cs = 0x23)
BAD(compat_mode, c->thread_info->gpregs->mode = USER_X86_REGS_MODE__COMPAT)
BAD(kernel_ss, c->thread_info->gpregs->ss = 0x18)
BAD(kernel_ds, c->thread_info->gpregs->ds = 0x18)
BAD(kernel_ip, c->thread_info->gpregs->ip = 0xffffffff81000000)
BAD(odd_sp, c->thread_info->gpregs->sp = 0x0000900000000000)
BAD(kernel_fs_base, c->thread_info->gpregs->fs_base = UINT64_MAX)
BAD(flags, c->thread_info->gpregs->flags |= 1 << 20)
BAD(iopl, c->thread_info->gpregs->flags |= 0x3000)
BAD(mxcsr, c->thread_info->fpregs->mxcsr = 0xffff0000)
BAD(st_short, c->thread_info->fpregs->n_st_space = 31)
BAD(xmm_short, c->thread_info->fpregs->n_xmm_space = 0)
BAD(control_word, c->thread_info->fpregs->cwd = 0x10000)
BAD(component_63, c->thread_info->fpregs->xsave->xstate_bv |= 1ull << 63)
BAD(component_amx, c->thread_info->fpregs->xsave->xstate_bv |= 1ull << 18)
BAD(ymm_short, c->thread_info->fpregs->xsave->n_ymmh_space = 1)
BAD(ymm_gone, c->thread_info->fpregs->xsave->xstate_bv |= 4; c->thread_info->fpregs->xsave->n_ymmh_space = 0)
BAD(tls, c->thread_info->tls[0]->seg_not_present = false)
BAD(clear_tid, c->thread_info->clear_tid_addr = UINT64_MAX - 3)
BAD(robust, c->thread_core->futex_rla = 4096; c->thread_core->futex_rla_len = 23)
BAD(altstack, c->thread_core->sas->ss_flags = 4)
BAD(altstack_size, c->thread_core->sas->ss_flags = 0; c->thread_core->sas->ss_size = UINT64_MAX)
BAD(nice_value, c->thread_core->sched_nice = 20)
BAD(interrupted, c->thread_core->has_interrupted = true; c->thread_core->interrupted = 516)
BAD(ioprio, c->thread_core->has_ioprio = true; c->thread_core->ioprio = 0x10000)
BAD(policy, c->thread_core->sched_policy = 6)
BAD(priority, c->thread_core->sched_policy = 1; c->thread_core->sched_prio = 0)
BAD(pdeath, c->thread_core->has_pdeath_sig = true; c->thread_core->pdeath_sig = 65)
BAD(seccomp, c->thread_core->has_seccomp_mode = true; c->thread_core->seccomp_mode = SECCOMP_MODE__filter)
BAD(uid, c->thread_core->creds->euid = UINT32_MAX)
BAD(caps_over, c->thread_core->creds->cap_prm[0] = 0; c->thread_core->creds->cap_eff[0] = 1)
BAD(securebits, c->thread_core->creds->secbits = 1 << 20)
BAD(actions, sa_entry__free_unpacked(c->tc->sigactions[--c->tc->n_sigactions], NULL))
BAD(limit, c->tc->rlimits->rlimits[3]->cur = 2; c->tc->rlimits->rlimits[3]->max = 1)
BAD(limit_count, rlimit_entry__free_unpacked(c->tc->rlimits->rlimits[--c->tc->rlimits->n_rlimits], NULL))
BAD(itimer, c->tc->timers->prof->vusec = 1000000)
BAD(itimer_far, c->tc->timers->real->vsec = UINT64_MAX)
BAD(oom, c->tc->has_oom_score_adj = true; c->tc->oom_score_adj = -1001)
BAD(membarrier, c->tc->has_membarrier_registration_mask = true; c->tc->membarrier_registration_mask = 1)

#define E(name) { #name, EBADMSG, name }
#define U(name) { #name, EOPNOTSUPP, name }
static const struct bad bads[] = {
	E(no_registers), E(no_thread), E(no_task), E(no_timers), E(no_creds), E(no_limits), U(other_machine), E(state),
	E(exit_code), E(kernel_cs), U(compat_cs), U(compat_mode), E(kernel_ss), E(kernel_ds), E(kernel_ip), E(odd_sp),
	E(kernel_fs_base), E(flags), E(iopl), E(mxcsr), E(st_short), E(xmm_short), E(control_word), U(component_63),
	U(component_amx), E(ymm_short), E(ymm_gone), U(tls), E(clear_tid), E(robust), E(altstack), E(altstack_size), E(nice_value),
	E(interrupted), E(ioprio), E(policy), E(priority), E(pdeath), U(seccomp), E(uid), E(caps_over), E(securebits), E(actions), E(limit),
	E(limit_count), E(itimer), E(itimer_far), E(oom), E(membarrier),
};

static void refused(void **state)
{
	(void)state;
	random_seed(1);
	for (size_t i = 0; i < ARRAY_LEN(bads); i++) {
		struct task x, y = { .pid = 1000 };
		struct thread th = { .tid = 1000 };
		struct err err = { 0 };
		CoreEntry *core;
		int r;

		random_task(&x, 1);
		core = core_save(&x, &x.threads.at[0]);
		bads[i].spoil(core);
		r = core_load(core, &y, &th, true, &err);
		if (r != -bads[i].code)
			fail_msg("%s: %d instead of %d: %s", bads[i].what, r, -bads[i].code, err.text);
		core_entry__free_unpacked(core, NULL);
		thread_free(&th);
		task_drop(&x);
		task_drop(&y);
	}
}

static void bad_timers(void **state)
{
	static const struct { PosixTimerEntry rec; bool good; } all[] = {
#define TIMER(...) { .base = PROTOBUF_C_MESSAGE_INIT(&posix_timer_entry__descriptor), __VA_ARGS__ }
		{ TIMER(.si_signo = 1), true },
		{ TIMER(.it_id = 0x80000000, .si_signo = 1), false },
		{ TIMER(.si_signo = 0), false },
		{ TIMER(.si_signo = 65), false },
		{ TIMER(.si_signo = 0, .it_sigev_notify = 1), true },
		{ TIMER(.si_signo = 1, .it_sigev_notify = 3), false },
		{ TIMER(.si_signo = 1, .it_sigev_notify = 4), false },
		{ TIMER(.si_signo = 1, .it_sigev_notify = 4, .has_notify_thread_id = true, .notify_thread_id = 9), false },
		{ TIMER(.si_signo = 1, .insec = 1000000000), false },
		{ TIMER(.si_signo = 1, .vsec = UINT64_MAX), false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		PosixTimerEntry rec = all[i].rec, *list[2] = { &rec, &rec };
		TaskTimersEntry timers = TASK_TIMERS_ENTRY__INIT;
		TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;
		CoreEntry core = CORE_ENTRY__INIT;
		struct task y = { .pid = 1000 };
		struct err err;
		extern const struct task_kind timers_kind;

		vec_push(&y.threads, ((struct thread){ .tid = 1000 }));
		core.tc = &tc;
		tc.timers = &timers;
		timers.posix = list;
		timers.n_posix = 1;
		assert_int_equal(timers_kind.load(&core, &y, &err), all[i].good ? 0 : -EBADMSG);
		timers.n_posix = 2;     /* the same number twice */
		vec_free(&y.timers);
		assert_int_equal(timers_kind.load(&core, &y, &err), -EBADMSG);
		task_drop(&y);
	}
}

static void bad_signal(void **state)
{
	uint8_t info[128] = { 65 };
	SiginfoEntry one = SIGINFO_ENTRY__INIT, *list[1] = { &one };
	SignalQueueEntry queue = SIGNAL_QUEUE_ENTRY__INIT;
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;
	CoreEntry core = CORE_ENTRY__INIT;
	struct task y = { .pid = 1000 };
	struct err err;
	extern const struct task_kind pending_kind;

	(void)state;
	core.tc = &tc;
	tc.signals_s = &queue;
	queue.signals = list;
	queue.n_signals = 1;
	one.siginfo = (ProtobufCBinaryData){ .len = 128, .data = info };
	assert_int_equal(pending_kind.load(&core, &y, &err), -EBADMSG);
	info[0] = 12;
	one.siginfo.len = 127;
	assert_int_equal(pending_kind.load(&core, &y, &err), -EBADMSG);
	one.siginfo.len = 128;
	vec_free(&y.pending);
	assert_int_equal(pending_kind.load(&core, &y, &err), 0);
	task_drop(&y);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(save_and_load),
		cmocka_unit_test(dead_task),
		cmocka_unit_test(refused),
		cmocka_unit_test(bad_timers),
		cmocka_unit_test(bad_signal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
