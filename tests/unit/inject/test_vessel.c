/* SPDX-License-Identifier: Apache-2.0 */
/* Vessels: made with a pid, emptied, furnished, left; and nothing stays of what fails. */
#include "tasks.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/own.h"
#include "inject/vessel.h"
#include "kernel/proc.h"
#include "kernel/proc_task.h"
#include "kernel/ptrace.h"
#include "kernel/sys.h"

#define PAGE    4096ull
#define PID     300
#define FAR     0x20000000ull           /* nobody has this */

struct made { struct vessel v; struct err err; };

static struct blob_place place(void)
{
	VEC(struct taddr_range) ranges = { 0 };
	struct proc_maps maps = { 0 };
	struct blob_place p;
	struct err err;

	OK(&err, proc_maps(getpid(), &maps, &err));
	for (size_t i = 0; i < maps.len; i++)
		vec_push(&ranges, ((struct taddr_range){ maps.at[i].start, maps.at[i].end }));
	vec_push(&ranges, ((struct taddr_range){ FAR, FAR + (64 << 20) }));
	OK(&err, blob_find_place(ranges.at, ranges.len, 4, &p, &err));
	vec_free(&ranges);
	proc_maps_free(&maps);
	return p;
}

static int setup(void **state)
{
	struct made *m = mem_new(sizeof(*m));
	struct blob_place at = place();

	OK(&m->err, vessel_create(PID, false, &at, &m->v, &m->err));
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct made *m = *state;

	vessel_kill(PID);
	vessel_free(&m->v);
	free(m);
	while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)                 /* children of vessels */
		;
	return waitpid(-1, NULL, WNOHANG | __WALL) != -1;               /* nobody lives on */
}

static int64_t call(struct made *m, uint64_t nr, uint64_t a, uint64_t b)
{
	int64_t got;

	OK(&m->err, vessel_call(&m->v, nr, (uint64_t[6]){ a, b }, &got, &m->err));
	return got;
}

static void created(void **state)
{
	struct made *m = *state;
	struct proc_status status;
	struct err err;
	int64_t got;

	assert_int_equal(m->v.pid, PID);
	assert_int_equal(call(m, SYS_getpid, 0, 0), PID);
	assert_int_equal(call(m, SYS_getppid, 0, 0), getpid());
	OK(&err, proc_status(PID, 0, &status, &err));
	assert_int_equal(status.threads, 1);
	proc_status_free(&status);
	OK(&err, vessel_call(&m->v, SYS_close, (uint64_t[6]){ 987654 }, &got, &err));
	assert_int_equal(got, -EBADF);
}

static void scripts(void **state)
{
	struct made *m = *state;
	struct script *s = &m->v.script;
	const char text[] = "through a script";
	char back[sizeof(text)] = "";
	int pipe_fds[2];
	taddr data;

	OK(&m->err, vessel_run(&m->v, &m->err));                /* the empty one, and what creation left to do */
	OK(&m->err, vessel_run(&m->v, &m->err));
	script_call_value(s, FAR, SYS_mmap, "mmap", FAR, 3 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t)-1, 0);
	data = script_data(s, text, sizeof(text));
	script_call_value(s, 77, SYS_dup2, "dup2", 1, 77);
	/* data goes to the task, and the result of a call too */
	script_call_value(s, sizeof(text), SYS_process_vm_readv, "read itself", PID,
			  script_data(s, &(struct { uint64_t at, len; }){ FAR, sizeof(text) }, 16), 1,
			  script_data(s, &(struct { uint64_t at, len; }){ data, sizeof(text) }, 16), 1, 0);
	OK(&m->err, vessel_run(&m->v, &m->err));
	assert_int_equal(s->ops.len + s->data.len, 0);
	OK(&m->err, sys_read_memory(PID, FAR, back, sizeof(back), &m->err));
	assert_string_equal(back, text);
	assert_int_equal(call(m, SYS_fcntl, 77, F_GETFD), 0);
	assert_int_equal(pipe(pipe_fds), 0);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static void as_long_as_it_gets(void **state)
{
	struct made *m = *state;
	size_t n = 0;

	OK(&m->err, vessel_run(&m->v, &m->err));
	for (; script_fits(&m->v.script, 1, 0); n++)
		script_call_value(&m->v.script, PID, SYS_getpid, "getpid", 0);
	while (script_fits(&m->v.script, 0, 1000))
		script_data(&m->v.script, &(char[1000]){ 1 }, 1000);
	assert_true(n > 1000);
	OK(&m->err, vessel_run(&m->v, &m->err));
	for (size_t i = 0; i <= n; i++)
		script_call(&m->v.script, OP_WANT_ANY, SYS_getpid, 0);
	FAILS(&m->err, ENOSPC, "does not fit", vessel_run(&m->v, &m->err));
	OK(&m->err, vessel_run(&m->v, &m->err));                /* forgotten */
	assert_int_equal(call(m, SYS_getpid, 0, 0), PID);
}

/* The op that failed is blamed, those behind it are not run, and the vessel goes on. */
static void blame(void **state)
{
	struct made *m = *state;
	struct script *s = &m->v.script;

	OK(&m->err, vessel_run(&m->v, &m->err));
	script_call(s, OP_WANT_OK, SYS_getpid, 0);
	script_call_value(s, FAR, SYS_mmap, "mmap 1", FAR, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
			  (uint64_t)-1, 0);
	script_call_value(s, FAR, SYS_mmap, "mmap 2", FAR, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
			  (uint64_t)-1, 0);
	script_call(s, OP_WANT_ZERO, SYS_exit_group, 3);
	FAILS(&m->err, EEXIST, "mmap 2 (0x20000000, 0x1000, 0x1): File exists", vessel_run(&m->v, &m->err));
	script_call(s, OP_WANT_ZERO, SYS_getpid, 0);
	FAILS(&m->err, EIO, "getpid: result 300, wanted 0", vessel_run(&m->v, &m->err));
	script_call_value(s, PID + 1, SYS_getpid, "who", 0);
	FAILS(&m->err, EIO, "who: result 300, wanted 301", vessel_run(&m->v, &m->err));
	script_call(s, OP_WANT_OK, SYS_close, 12345);
	FAILS(&m->err, EBADF, "close", vessel_run(&m->v, &m->err));
	script_call(s, OP_WANT_ANY, SYS_close, 12345);
	script_call_value(s, PID, SYS_getpid, "getpid", 0);
	OK(&m->err, vessel_run(&m->v, &m->err));
}

/* A vessel that crashes is told as such, and does not hang. */
static void crash(void **state)
{
	struct made *m = *state;
	struct script s;

	script_init(&s, FAR, 4096, 4096);       /* not mapped */
	script_call(&s, OP_WANT_ANY, SYS_getpid, 0);
	assert_true(vessel_start(&m->v, PID, &s, &m->err) < 0);
	script_free(&s);
	OK(&m->err, vessel_run(&m->v, &m->err));
	script_call(&m->v.script, OP_WANT_ZERO, SYS_munmap, m->v.blob.at, PAGE);        /* the interpreter itself */
	FAILS(&m->err, EFAULT, "signal 11", vessel_run(&m->v, &m->err));
}

static void dies(void **state)
{
	struct made *m = *state;

	OK(&m->err, vessel_run(&m->v, &m->err));
	script_call(&m->v.script, OP_WANT_ZERO, SYS_exit_group, 3);
	FAILS(&m->err, ESRCH, "died", vessel_run(&m->v, &m->err));
}

/* What is sent to a vessel waits, and no stop or trap from outside is taken for the end of a script. */
static void signals_wait(void **state)
{
	static const int sent[] = { SIGTERM, SIGUSR1, SIGINT, SIGCHLD, SIGSTOP, SIGTSTP, SIGTRAP, SIGCONT };
	struct made *m = *state;
	struct proc_status status;

	OK(&m->err, vessel_run(&m->v, &m->err));
	for (int round = 0; round < 20; round++) {
		for (size_t i = 0; i < ARRAY_LEN(sent); i++)
			assert_int_equal(kill(PID, sent[i]), 0);
		for (int i = 0; i < 50; i++)
			script_call_value(&m->v.script, PID, SYS_getpid, "getpid", 0);
		OK(&m->err, vessel_run(&m->v, &m->err));
	}
	OK(&m->err, proc_status(PID, 0, &status, &m->err));
	assert_true(status.shd_pnd & 1ull << (SIGTERM - 1));
	proc_status_free(&status);
}

static void pid_is_taken(void **state)
{
	struct made *m = *state;
	const struct blob_place at = place();
	struct vessel v;

	FAILS(&m->err, EEXIST, "300", vessel_create(PID, false, &at, &v, &m->err));
}

static size_t open_fds(void)
{
	struct proc_ids fds = { 0 };
	struct err err;
	size_t n;

	OK(&err, proc_fds(getpid(), &fds, &err));
	n = fds.len;
	vec_free(&fds);
	return n;
}

/* The blob's place is taken: the clone goes again. */
static void nothing_is_left(void **state)
{
	struct made *m = *state;
	struct blob_place at = place();
	size_t fds = open_fds();
	struct vessel v;

	at.at = (uintptr_t)&at & ~(PAGE - 1);
	FAILS(&m->err, EEXIST, "map the interpreter", vessel_create(PID + 1, false, &at, &v, &m->err));
	assert_int_equal(kill(PID + 1, 0), -1);
	assert_int_equal(open_fds(), fds);
}

/* ---- children and threads ---- */

static void clone_in(struct made *m, uint64_t flags, pid_t pid, int exit_signal)
{
	taddr set_tid = script_data(&m->v.script, &pid, sizeof(pid));
	struct clone_args args = { .flags = flags | CLONE_PTRACE, .exit_signal = (uint64_t)exit_signal,
				   .set_tid = set_tid, .set_tid_size = 1 };
	taddr at = script_data(&m->v.script, &args, sizeof(args));

	script_call_value(&m->v.script, (uint64_t)pid, SYS_clone3, "clone3", at, sizeof(args));
	OK(&m->err, vessel_run(&m->v, &m->err));
}

static void children(void **state)
{
	struct made *m = *state;
	struct vessel child;
	int64_t got;

	clone_in(m, 0, PID + 7, SIGCHLD);
	OK(&m->err, vessel_adopt(PID + 7, &m->v, &child, &m->err));
	script_call_value(&child.script, PID, SYS_getppid, "getppid", 0);
	script_call_value(&child.script, FAR, SYS_mmap, "mmap", FAR, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			  (uint64_t)-1, 0);
	OK(&m->err, vessel_run(&child, &m->err));
	OK(&m->err, vessel_call(&child, SYS_getpid, (uint64_t[6]){ 0 }, &got, &m->err));
	assert_int_equal(got, PID + 7);
	assert_int_equal(call(m, SYS_munmap, FAR, PAGE), 0);    /* the parent had nothing there: memory is the child's own */
	OK(&m->err, vessel_leave(&child, &m->err));
	assert_int_equal(call(m, SYS_getpid, 0, 0), PID);
	vessel_kill(PID + 7);
	vessel_free(&child);
}

#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)

static void threads(void **state)
{
	struct made *m = *state;
	struct script scripts[4];

	for (unsigned int i = 0; i < 4; i++) {
		clone_in(m, THREAD_FLAGS, PID + 20 + (pid_t)i, 0);
		OK(&m->err, vessel_catch_thread(PID + 20 + (pid_t)i, &m->err));
	}
	for (unsigned int i = 0; i < 4; i++) {  /* all at once */
		struct script *s = &scripts[i];

		vessel_thread_script(&m->v, i + 1, s);
		for (int k = 0; k < 3; k++)
			script_data(s, &(char[900]){ 1 }, 900);
		while (script_fits(s, 1, 0))
			script_call_value(s, PID + 20 + i, SYS_gettid, "gettid", 0);
		OK(&m->err, vessel_start(&m->v, PID + 20 + (pid_t)i, s, &m->err));
	}
	for (unsigned int i = 0; i < 4; i++) {
		OK(&m->err, vessel_wait(&m->v, PID + 20 + (pid_t)i, &scripts[i], &m->err));
		script_free(&scripts[i]);
	}
	vessel_thread_script(&m->v, 4, &scripts[0]);
	script_call_value(&scripts[0], 1, SYS_gettid, "gettid", 0);
	OK(&m->err, vessel_start(&m->v, PID + 23, &scripts[0], &m->err));
	FAILS(&m->err, EIO, "gettid: result 323, wanted 1", vessel_wait(&m->v, PID + 23, &scripts[0], &m->err));
	script_free(&scripts[0]);
}

/* ---- an empty address space, and a program in it ---- */

static void only_ours(struct made *m, bool blob)
{
	struct proc_maps maps = { 0 };
	uint64_t vdso_bytes = 0;

	OK(&m->err, proc_maps(PID, &maps, &m->err));
	for (size_t i = 0; i < maps.len; i++) {
		const struct proc_map *p = &maps.at[i];

		if (strcmp(p->name, "[vsyscall]") == 0)
			continue;
		if (strncmp(p->name, "[v", 2) == 0)
			vdso_bytes += p->end - p->start;
		else
			assert_true(blob && p->start == m->v.blob.at && p->end == p->start + m->v.blob.len_bytes);
	}
	assert_int_equal(vdso_bytes, vdso_span(&m->v.vdso));
	proc_maps_free(&maps);
}

static void unmap(struct vessel *v, taddr start, taddr end)
{
	if (start < end)
		script_call(&v->script, OP_WANT_ZERO, SYS_munmap, start, end - start);
}

/* All but the blob and the vdso. */
static void unmap_all(struct vessel *v)
{
	taddr blob[2] = { v->blob.at, v->blob.at + v->blob.len_bytes };
	taddr vdso[2] = { v->vdso.part[0].start, v->vdso.part[0].start + vdso_span(&v->vdso) };
	const taddr *low = blob[0] < vdso[0] ? blob : vdso, *high = low == blob ? vdso : blob;

	unmap(v, 0, low[0]);
	unmap(v, low[1], high[0]);
	unmap(v, high[1], 0x7ffffffff000ull);
}

static void emptied(void **state)
{
	struct made *m = *state;

	unmap_all(&m->v);
	OK(&m->err, vessel_run(&m->v, &m->err));
	only_ours(m, true);
	assert_int_equal(call(m, SYS_getpid, 0, 0), PID);
	OK(&m->err, vessel_leave(&m->v, &m->err));
	only_ours(m, false);
	assert_int_equal(call(m, SYS_getpid, 0, 0), PID);       /* through the vdso's own instruction */
}

static taddr vdso_at(struct made *m)
{
	struct proc_maps maps = { 0 };
	struct vdso v;

	OK(&m->err, proc_maps(PID, &maps, &m->err));
	OK(&m->err, vdso_find(&maps, &v, &m->err));
	proc_maps_free(&maps);
	assert_int_equal(v.parts, m->v.vdso.parts);
	return v.part[0].start;
}

static void vdso_moves(void **state)
{
	struct made *m = *state;
	uint64_t span = vdso_span(&m->v.vdso), code = vdso_code_offset(&m->v.vdso);
	taddr first = m->v.vdso.part[0].start;
	/* far away; onto itself from above and below; where it is */
	const taddr to[] = { FAR, FAR + PAGE, FAR, FAR + span - PAGE, FAR + PAGE, FAR + PAGE, 0x7fff00000000, first };

	unmap_all(&m->v);
	for (size_t i = 0; i < ARRAY_LEN(to); i++) {
		OK(&m->err, vessel_move_vdso(&m->v, to[i], span, code, &m->err));
		OK(&m->err, vessel_run(&m->v, &m->err));
		assert_int_equal(vdso_at(m), to[i]);
		only_ours(m, true);
		assert_int_equal(call(m, SYS_getpid, 0, 0), PID);
	}
	FAILS(&m->err, EOPNOTSUPP, "vdso", vessel_move_vdso(&m->v, FAR, span + PAGE, code, &m->err));
	FAILS(&m->err, EOPNOTSUPP, "vdso", vessel_move_vdso(&m->v, FAR, span, code - PAGE, &m->err));
	assert_int_equal(m->v.script.ops.len, 0);
}

/* Let go, it is a task like any other. */
static void runs_on(void **state)
{
	static const uint8_t code[] = { 0xb8, 0xe7, 0, 0, 0, 0xbf, 42, 0, 0, 0, 0x0f, 0x05 };   /* exit_group(42) */
	struct made *m = *state;
	struct user_regs_struct regs;
	int status;

	unmap_all(&m->v);
	script_call_value(&m->v.script, FAR, SYS_mmap, "mmap", FAR, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t)-1, 0);
	OK(&m->err, vessel_run(&m->v, &m->err));
	OK(&m->err, sys_write_memory(PID, FAR, code, sizeof(code), &m->err));
	OK(&m->err, vessel_leave(&m->v, &m->err));
	OK(&m->err, ptrace_get_regs(PID, &regs, &m->err));
	regs.rip = FAR;
	regs.orig_rax = (unsigned long long)-1;
	OK(&m->err, ptrace_set_regs(PID, &regs, &m->err));
	OK(&m->err, ptrace_set_sigmask(PID, 0, &m->err));
	OK(&m->err, ptrace_detach(PID, &m->err));
	assert_int_equal(waitpid(PID, &status, 0), PID);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

/* ---- whose child, and who outlives whom ---- */

static void makes_sibling(void *arg)
{
	const struct blob_place at = place();
	struct vessel v;
	struct err err;
	int64_t ppid;

	if (vessel_create(PID, true, &at, &v, &err) < 0 || vessel_call(&v, SYS_getppid, (uint64_t[6]){ 0 }, &ppid, &err) < 0)
		_exit(1);
	atomic_store((atomic_ulong *)arg, (unsigned long)ppid);
	for (;;)
		pause();
}

/* Also: when ferry dies, so do its vessels. */
static void sibling(void **state)
{
	atomic_ulong *ppid = task_board(sizeof(*ppid));
	pid_t maker = task_fork(makes_sibling, ppid);
	int status;

	(void)state;
	until_more(ppid, 0);
	assert_int_equal(atomic_load(ppid), getpid());
	task_end(maker);
	assert_int_equal(waitpid(PID, &status, __WALL), PID);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	munmap(ppid, sizeof(*ppid));
}

/* At any instant: also before the vessel is held. */
static void makes_many(void *arg)
{
	const struct blob_place at = place();

	(void)arg;
	for (;;) {
		struct vessel v;
		struct err err;

		if (vessel_create(PID, false, &at, &v, &err) == 0)
			vessel_kill(PID);
	}
}

static void none_survives(void **state)
{
	uint64_t end_us;

	(void)state;
	srandom(1);
	for (int i = 0; i < 40; i++) {
		pid_t maker = task_fork(makes_many, NULL);

		usleep(500 + (useconds_t)random() % 1500);      /* whenever it happens to be */
		task_end(maker);
		end_us = clock_us() + 5000000;
		while (waitpid(-1, NULL, WNOHANG | __WALL) >= 0 && clock_us() < end_us)
			sched_yield();
		if (kill(PID, 0) == 0)
			fail_msg("round %d: the vessel lives on", i);
	}
}

static int run(void)
{
#define VESSEL_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		VESSEL_TEST(created),
		VESSEL_TEST(scripts),
		VESSEL_TEST(as_long_as_it_gets),
		VESSEL_TEST(blame),
		VESSEL_TEST(crash),
		VESSEL_TEST(dies),
		VESSEL_TEST(signals_wait),
		VESSEL_TEST(pid_is_taken),
		VESSEL_TEST(nothing_is_left),
		VESSEL_TEST(children),
		VESSEL_TEST(threads),
		VESSEL_TEST(emptied),
		VESSEL_TEST(vdso_moves),
		VESSEL_TEST(runs_on),
		cmocka_unit_test(sibling),
		cmocka_unit_test(none_survives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	return in_pid_namespace(run);
}
