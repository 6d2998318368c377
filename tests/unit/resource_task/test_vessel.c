/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel half: see(make(x)) == x, in a real vessel with a leader and one
 * more thread, by the same steps as a restore and a dump.  Needs root.
 */
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/arch/x86_64/xstate.h"
#include "kernel/ptrace.h"
#include "resource/resource.h"
#include "states.h"

#define SKIPPED         77
#define THREAD_FLAGS    (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PTRACE)

/* What areas point at: a vessel is a clone of this program, and has them too. */
static char altstacks[2][65536];
static char rseqs[2][64] __attribute__((aligned(64)));
static uint64_t robusts[2][3];
static uint32_t clear_tids[2];

#define OK(call)                                                                \
	do {                                                                    \
		struct err *err = &(struct err){ 0 };                           \
		int ok_result = (call);                                         \
		if (ok_result < 0)                                              \
			fail_msg("%s: [%s] %s", #call, err->scope, err->text);  \
	} while (0)

/* A number that nobody has: of a child that is gone. */
static pid_t free_pid(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	waitpid(pid, NULL, 0);
	return pid;
}

/* ---- make, as a restore does it ---- */

static void place_blob(struct blob_place *place)
{
	struct taddr_range ranges[512];
	struct proc_maps maps = { 0 };
	size_t n = 0;

	OK(proc_maps(getpid(), &maps, err));
	for (size_t i = 0; i < maps.len && n < ARRAY_LEN(ranges); i++)
		ranges[n++] = (struct taddr_range){ maps.at[i].start, maps.at[i].end };
	proc_maps_free(&maps);
	OK(blob_find_place(ranges, n, 2, place, err));
}

static void clone_thread(struct vessel *v, const struct thread *t)
{
	const pid_t tid = t->tid;
	struct clone_args args = {
		.flags = THREAD_FLAGS | CLONE_CHILD_CLEARTID, .child_tid = t->clear_tid, .set_tid_size = 1,
	};

	args.set_tid = script_data(&v->script, &tid, sizeof(tid));
	script_call_value(&v->script, (uint64_t)tid, SYS_clone3, "clone", script_data(&v->script, &args, sizeof(args)),
			  sizeof(args));
	OK(vessel_run(v, err));
	OK(vessel_catch_thread(tid, err));
}

static void make_tasks(const struct task *t, struct vessel *v, enum task_stage stage)
{
	for (size_t i = 0; task_kinds[i]; i++)
		if (task_kinds[i]->stage == stage)
			OK(task_kinds[i]->make(t, v, err));
	OK(vessel_run(v, err));
}

static void make_thread(const struct task *t, const struct thread *th, struct script *s)
{
	for (size_t i = 0; thread_kinds[i]; i++)
		if (thread_kinds[i]->make)
			OK(thread_kinds[i]->make(t, th, s, err));
}

static void set_registers(const struct thread *t)
{
	OK(ptrace_set_regs(t->tid, &t->regs, err));
	OK(ptrace_set_xsave(t->tid, t->xsave, t->xsave_len, err));
	OK(ptrace_set_sigmask(t->tid, t->mask, err));
}

static void make(const struct task *t, struct vessel *v)
{
	struct blob_place place;
	struct script s;

	place_blob(&place);
	OK(vessel_create(t->pid, false, &place, v, err));
	make_tasks(t, v, STAGE_ALONE);
	clone_thread(v, &t->threads.at[1]);
	make_tasks(t, v, STAGE_THREADS);
	vessel_thread_script(v, 1, &s);
	make_thread(t, &t->threads.at[1], &s);
	OK(vessel_start(v, t->threads.at[1].tid, &s, err));
	OK(vessel_wait(v, t->threads.at[1].tid, &s, err));
	script_free(&s);
	make_thread(t, &t->threads.at[0], &v->script);
	OK(vessel_run(v, err));
	make_tasks(t, v, STAGE_LAST);
	for (size_t i = 0; i < t->threads.len; i++)
		set_registers(&t->threads.at[i]);
}

/* ---- see, as a dump does it ---- */

static void see_thread(struct task_view *v, const struct gadgets *g, size_t index, struct task *t)
{
	struct subject *s = &v->subjects[index];

	OK(subject_open(s, g, v->maps, v->subjects, t->threads.len, err));
	for (size_t i = 0; thread_kinds[i]; i++)
		OK(thread_kinds[i]->see(v, s, &t->threads.at[index], err));
	for (size_t i = 0; index == 0 && task_kinds[i]; i++)
		if (task_kinds[i]->see)
			OK(task_kinds[i]->see(v, t, err));
	OK(subject_close(s, err));
}

static void see(const struct task *made, struct task *t)
{
	struct proc_status status = { 0 };
	struct subject subjects[2] = { 0 };
	struct proc_maps maps = { 0 };
	struct proc_stat stat;
	struct gadgets gadgets;
	struct task_view v = {
		.stat = &stat, .status = &status, .subject = subjects, .subjects = subjects, .maps = &maps,
	};

	*t = (struct task){ .pid = made->pid, .state = TASK_ALIVE };
	OK(proc_stat(t->pid, 0, &stat, err));
	OK(proc_status(t->pid, 0, &status, err));
	OK(proc_maps(t->pid, &maps, err));
	OK(gadgets_find(t->pid, &maps, &gadgets, err));
	for (size_t i = 0; i < 2; i++) {
		vec_add(&t->threads)->tid = made->threads.at[i].tid;
		OK(subject_see(made->threads.at[i].tid, &subjects[i], err));
	}
	for (size_t i = 0; i < 2; i++)
		see_thread(&v, &gadgets, i, t);
	for (size_t i = 0; i < 2; i++)
		subject_free(&subjects[i]);
	proc_status_free(&status);
	proc_maps_free(&maps);
}

/* ---- what the kernel may change in between ---- */

/* Time goes on; what counts processor time is rounded up to a tick. */
static void same_left(uint64_t made, uint64_t *seen, uint64_t per_second)
{
	assert_in_range(*seen, made > 60 * per_second ? made - 60 * per_second : 0, made + per_second / 50);
	*seen = made;
}

static void level(const struct task *made, struct task *seen)
{
	assert_int_equal(made->timers.len, seen->timers.len);
	for (size_t i = 0; i < made->timers.len; i++)
		same_left(made->timers.at[i].left_ns, &seen->timers.at[i].left_ns, 1000000000);
	for (int i = 0; i < 3; i++)
		same_left(made->itimers[i].left_us, &seen->itimers[i].left_us, 1000000);
	seen->flags = made->flags;
	/* the kernel's notes in the area say what it would like, not what there is */
	for (size_t i = 0; i < seen->threads.len; i++)
		memset(seen->threads.at[i].xsave + XSTATE_SOFTWARE, 0, 48);
}

/* ---- states that this machine allows ---- */

static uint64_t own_caps(void)
{
	struct proc_status own = { 0 };
	uint64_t caps;

	OK(proc_status(getpid(), 0, &own, err));
	caps = own.cap_prm & own.cap_bnd;
	proc_status_free(&own);
	return caps;
}

static struct signal_info siginfo_of(int signal, int code, int value)
{
	struct signal_info i = { 0 };
	siginfo_t info = { .si_signo = signal, .si_code = code };

	info.si_pid = getpid();
	info.si_uid = 7;
	info.si_int = value;
	memcpy(i.bytes, &info, sizeof(info));
	return i;
}

/* Where it was thrown away: all of an area that is not in use reads as new. */
static void legal_xsave(struct thread *t)
{
	static const unsigned int with_place[] = { 2, 3, 4, 5, 6, 7, 9 };
	uint64_t used;
	uint32_t pkru = 0x55555550;
	size_t offset, len;

	memcpy(&used, t->xsave + XSTATE_HEADER, 8);
	used |= 3;
	if (xstate_place(9, &offset, &len)) {
		used |= 1 << 9;
		memset(t->xsave + offset, 0, len);
		memcpy(t->xsave + offset, &pkru, 4);
	}
	memcpy(t->xsave + XSTATE_HEADER, &used, 8);
	memset(t->xsave, 0, 24);
	t->xsave[0] = 0x7f, t->xsave[1] = 3;            /* x87 control word */
	for (int i = 0; i < 8; i++)                     /* 80-bit registers in 16 bytes */
		memset(t->xsave + 32 + 16 * i + 10, 0, 6);
	for (size_t i = 0; i < ARRAY_LEN(with_place); i++)
		if (!(used >> with_place[i] & 1) && xstate_place(with_place[i], &offset, &len))
			memset(t->xsave + offset, 0, len);
}

static void legal_thread(struct thread *t, size_t index, pid_t tid)
{
	t->tid = tid;
	t->regs.fs = 0;         /* with a base of its own, as all programs are */
	legal_xsave(t);
	t->clear_tid = (uintptr_t)&clear_tids[index];
	t->robust_head = (uintptr_t)robusts[index];
	t->robust_len = 24;
	t->altstack.sp = (uintptr_t)altstacks[index];
	t->altstack.size = sizeof(altstacks[index]);
	t->altstack.flags = index ? 1u << 31 : 0;
	t->rseq.pointer = (uintptr_t)rseqs[index];
	t->rseq.size = 32;
	t->rseq.signature = 0x53053053;
	t->regs.rsp = (uintptr_t)altstacks;     /* nowhere in particular */
	t->interrupted = 0;                     /* the engine's business */
	t->affinity.len = 0;
	if (sysconf(_SC_NPROCESSORS_ONLN) > 1 && index)
		vec_push(&t->affinity, 1);
	t->mask &= ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1));
	t->creds.fsuid = random_below(2) ? t->creds.euid : t->creds.fsuid;
	t->creds.cap_bnd &= own_caps();
	t->creds.cap_prm &= own_caps();
	t->creds.cap_inh &= own_caps();
	t->creds.cap_eff &= t->creds.cap_prm;
	t->creds.cap_amb &= t->creds.cap_prm & t->creds.cap_inh;
	t->creds.securebits &= ~0x40u;          /* with it no capability may be ambient: see no_ambient */
	t->pending.len = 0;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* The kernel keeps them sorted. */
static void sort_groups(struct creds *c)
{
	if (c->groups.len > 0)
		qsort(c->groups.at, c->groups.len, sizeof(uint32_t), by_value);
}

static void legal_limits(struct task *t)
{
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit64 own;

		assert_int_equal(prlimit64(0, i, NULL, &own), 0);
		t->limits[i] = own;
	}
	t->limits[RLIMIT_CORE].rlim_cur = 1234;
	t->limits[RLIMIT_CORE].rlim_max = 5678;
	t->limits[RLIMIT_NOFILE].rlim_cur = 100;
	t->limits[RLIMIT_CPU].rlim_cur = 5000;
}

static void legal_timers(struct task *t)
{
	t->timers.len = 0;
	vec_push(&t->timers, ((struct posix_timer){ .id = 3, .clock = CLOCK_MONOTONIC, .signal = SIGUSR1,
		.sigval = 0xabcdef0123456789, .interval_ns = 77000000001, .left_ns = 5000000000001 }));
	vec_push(&t->timers, ((struct posix_timer){ .id = 4, .clock = CLOCK_REALTIME, .notify = SIGEV_NONE, .signal = SIGUSR1 }));
	vec_push(&t->timers, ((struct posix_timer){ .id = 300, .clock = CLOCK_BOOTTIME, .signal = SIGRTMAX,
		.notify = SIGEV_THREAD_ID, .thread = t->threads.at[1].tid, .left_ns = 9000000000002 }));
	for (int i = 0; i < 3; i++) {
		t->itimers[i].interval_us = 1000000 + (uint64_t)i;
		t->itimers[i].left_us = 4000000000 + 1000000 * random_below(1000);
	}
	t->itimers[1].interval_us = t->itimers[1].left_us = 0;
}

static void legal_signals(struct task *t)
{
	t->pending.len = 0;
	vec_push(&t->pending, siginfo_of(SIGUSR1, SI_USER, 0));
	for (int i = 0; i < 50; i++)
		vec_push(&t->pending, siginfo_of(SIGRTMIN + 4 - i % 2, SI_QUEUE, i));
	vec_push(&t->pending, siginfo_of(SIGCHLD, CLD_EXITED, 3));
	vec_push(&t->threads.at[0].pending, siginfo_of(SIGUSR2, SI_TKILL, 0));
	for (int i = 0; i < 5; i++)
		vec_push(&t->threads.at[1].pending, siginfo_of(SIGRTMIN + 2, SI_TKILL, i));
	vec_push(&t->threads.at[1].pending, siginfo_of(SIGRTMIN + 2, SI_QUEUE, 9));
}

static void legal_task(struct task *t)
{
	random_task(t, 2);
	t->state = TASK_ALIVE;
	t->stop_signal = 0;
	t->personality = 0x0040000;     /* ADDR_NO_RANDOMIZE */
	t->oom_score_adj = 321;
	if (t->membarrier & 0x140)      /* these two contain the plain private one */
		t->membarrier |= 0x10;
	OK(proc_loginuid(getpid(), &t->loginuid, err));
	t->mm.dumpable = (int)random_below(2);
	t->mm.thp_disabled = random_below(2);
	t->pid = free_pid();
	for (size_t i = 0; i < 2; i++) {
		legal_thread(&t->threads.at[i], i, i ? free_pid() : t->pid);
		sort_groups(&t->threads.at[i].creds);
	}
	t->actions[SIGTRAP - 1].handler |= 2;
	for (int i = 0; i < SIGNALS; i++) {
		if (random_below(2))
			t->actions[i] = (struct sigact){ 0 };
		t->actions[i].flags = t->actions[i].handler ? 0xdc000005 : 0;
		t->actions[i].mask &= ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1));
	}
	t->actions[SIGCHLD - 1] = (struct sigact){ .handler = 1 };
	legal_limits(t);
	legal_timers(t);
	legal_signals(t);
}

/* ---- the laws ---- */

static void check(struct task *made)
{
	struct vessel v;
	struct task seen;

	make(made, &v);
	see(made, &seen);
	level(made, &seen);
	for (size_t i = 0; i < 2; i++)
		same_thread(&made->threads.at[i], &seen.threads.at[i]);
	same_task(made, &seen);
	assert_int_equal(made->mm.dumpable, seen.mm.dumpable);
	assert_int_equal(made->mm.thp_disabled, seen.mm.thp_disabled);
	vessel_kill(made->pid);
	vessel_free(&v);
	task_drop(&seen);
}

static void make_and_see(void **state)
{
	uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : (uint64_t)time(NULL);

	(void)state;
	printf("SEED=%llu\n", (unsigned long long)seed);
	random_seed(seed);
	for (int i = 0; i < 20; i++) {
		struct task t;

		legal_task(&t);
		check(&t);
		task_drop(&t);
	}
}

/* More than a thread's script can carry, by sigqueue alone: it goes from outside. */
static void long_queue(void **state)
{
	struct task t;

	(void)state;
	random_seed(5);
	legal_task(&t);
	t.threads.at[1].pending.len = 0;
	for (int i = 0; i < 200; i++)
		vec_push(&t.threads.at[1].pending, siginfo_of(SIGRTMIN + 2 + i % 3, SI_QUEUE, i));
	check(&t);
	task_drop(&t);
}

/* No ambient capability can be raised under this bit, locked or not. */
static void no_ambient(void **state)
{
	struct task t;

	(void)state;
	random_seed(6);
	legal_task(&t);
	t.threads.at[0].creds.securebits = 0xff;
	t.threads.at[0].creds.cap_amb = 0;
	check(&t);
	task_drop(&t);
}

/* Nothing at all is left to it. */
static void no_rights(void **state)
{
	struct task t;

	(void)state;
	random_seed(7);
	legal_task(&t);
	for (int i = 0; i < 2; i++) {
		struct creds *c = &t.threads.at[i].creds;

		c->cap_prm = c->cap_eff = c->cap_inh = c->cap_bnd = c->cap_amb = 0;
	}
	t.threads.at[1].pending.len = 0;
	check(&t);
	task_drop(&t);
}

static void capability_refused(void **state)
{
	struct thread t = { .tid = 1000, .creds = { .cap_prm = 1ull << 62 } };
	struct task task = { .pid = 1000 };
	struct script s;
	struct err err;
	extern const struct thread_kind creds_kind;

	(void)state;
	script_init(&s, 0x10000, 3072, 4096);
	assert_int_equal(creds_kind.make(&task, &t, &s, &err), -EPERM);
	assert_non_null(strstr(err.text, "CAP_"));
	script_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(make_and_see),
		cmocka_unit_test(long_queue),
		cmocka_unit_test(no_ambient),
		cmocka_unit_test(no_rights),
		cmocka_unit_test(capability_refused),
	};

	if (geteuid() != 0) {
		fprintf(stderr, "needs root\n");
		return SKIPPED;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
