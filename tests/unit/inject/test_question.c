/* SPDX-License-Identifier: Apache-2.0 */
/* A thread that is asked is, when it is let go, what it was: registers, stack, signals, and the call that it waits in. */
#include "tasks.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/own.h"
#include "inject/question.h"
#include "kernel/sys.h"

/* What a task tells and is told. */
struct board {
	atomic_ulong beat;              /* rises while it lives */
	atomic_ulong wrong;             /* what was not as it should */
	atomic_ulong signals;           /* that its handler saw */
	atomic_ulong go;
	atomic_ulong at, other_tid;
	atomic_uint word;               /* a futex */
	int pipe_fds[2];
	long result;
	int result_errno;
	uint64_t took_us;
};

struct asked {
	struct board *board;
	pid_t pid;
	struct proc_maps maps;
	struct gadgets gadgets;
	struct err err;
};

static int setup(void **state)
{
	struct asked *a = mem_new(sizeof(*a));

	a->board = task_board(sizeof(*a->board));
	*state = a;
	return pipe(a->board->pipe_fds);
}

static int teardown(void **state)
{
	struct asked *a = *state;

	if (a->pid)
		task_end(a->pid);
	proc_maps_free(&a->maps);
	close(a->board->pipe_fds[0]);
	close(a->board->pipe_fds[1]);
	munmap(a->board, sizeof(*a->board));
	free(a);
	return 0;
}

static void start(struct asked *a, void (*body)(void *))
{
	a->pid = task_fork(body, a->board);
}

static void hold(struct asked *a, pid_t tid)
{
	struct ptrace_stop stop;

	OK(&a->err, ptrace_seize(tid, PTRACE_O_TRACESYSGOOD, &a->err));
	OK(&a->err, ptrace_interrupt(tid, &a->err));
	OK(&a->err, ptrace_wait(tid, &stop, NULL, &a->err));
}

static void look(struct asked *a)
{
	OK(&a->err, proc_maps(a->pid, &a->maps, &a->err));
	OK(&a->err, gadgets_find(a->pid, &a->maps, &a->gadgets, &a->err));
}

static int open_one(struct asked *a, struct subject *s)
{
	return subject_open(s, &a->gadgets, &a->maps, s, 1, &a->err);
}

static int64_t ask(struct asked *a, struct subject *s, uint64_t nr, uint64_t a0, uint64_t a1)
{
	struct question q = { .subject = s, .nr = nr, .arg = { a0, a1 } };

	OK(&a->err, question_ask(&q, 1, &a->err));
	return q.answer;
}

/* See, open, ask twice, close. */
static void ask_all(struct asked *a, struct subject *s)
{
	int32_t subreaper = -1;

	OK(&a->err, open_one(a, s));
	assert_int_equal(ask(a, s, SYS_getpid, 0, 0), a->pid);
	assert_int_equal(ask(a, s, SYS_prctl, PR_GET_CHILD_SUBREAPER, s->out + 1000), 0);
	OK(&a->err, question_read(s, 1000, &subreaper, sizeof(subreaper), &a->err));
	assert_int_equal(subreaper, 0);
	assert_int_equal(ask(a, s, SYS_close, 98765, 0), -EBADF);
	OK(&a->err, subject_close(s, &a->err));
}

static void handler(int sig)
{
	(void)sig;
}

static struct board *counted;           /* of the task whose handler it is */

static void counts(int sig)
{
	(void)sig;
	atomic_fetch_add(&counted->signals, 1);
}

/* ---- all bytes of a thread ---- */

struct image { struct user_regs_struct regs; uint64_t mask; size_t xsave_len; uint8_t xsave[PTRACE_XSAVE_MAX], *stack; };

static const struct proc_map *stack_of(struct asked *a)
{
	for (size_t i = 0; i < a->maps.len; i++)
		if (strcmp(a->maps.at[i].name, "[stack]") == 0)
			return &a->maps.at[i];
	fail_msg("no [stack]");
	return NULL;
}

static struct image *image_of(struct asked *a, pid_t tid)
{
	struct image *i = mem_new(sizeof(*i));
	const struct proc_map *m = stack_of(a);

	OK(&a->err, ptrace_get_regs(tid, &i->regs, &a->err));
	OK(&a->err, ptrace_get_sigmask(tid, &i->mask, &a->err));
	OK(&a->err, ptrace_get_xsave(tid, i->xsave, sizeof(i->xsave), &i->xsave_len, &a->err));
	i->stack = mem_new(m->end - m->start);
	OK(&a->err, sys_read_memory(tid, m->start, i->stack, m->end - m->start, &a->err));
	return i;
}

static void same_image(struct asked *a, const struct image *x, const struct image *y)
{
	const struct proc_map *m = stack_of(a);

	assert_int_equal(x->mask, y->mask);
	assert_int_equal(x->xsave_len, y->xsave_len);
	assert_memory_equal(x->xsave, y->xsave, x->xsave_len);
	assert_memory_equal(x->stack, y->stack, m->end - m->start);
}

static void image_free(struct image *i)
{
	free(i->stack);
	free(i);
}

/* ---- spinning: values in registers that nobody may change ---- */

static void spins(void *arg)
{
	struct board *b = arg;
	sigset_t mask;

	counted = b;
	signal(SIGUSR1, counts);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	for (;;) {
		uint64_t rbx = 0x1111, r12 = 0x2222, r13 = 0x3333, xmm = 0x4444, n = 20000;

		__asm__ volatile("movq %3, %%xmm7\n"
				 "1: movq %%xmm7, %%rax\n"
				 "dec %4\n"
				 "jnz 1b\n"
				 "movq %%rax, %3\n"
				 : "+b"(rbx), "+r"(r12), "+r"(r13), "+r"(xmm), "+r"(n)
				 :
				 : "rax", "xmm7", "cc");
		sigprocmask(SIG_SETMASK, NULL, &mask);
		if (rbx != 0x1111 || r12 != 0x2222 || r13 != 0x3333 || xmm != 0x4444 || sigismember(&mask, SIGUSR1) ||
		    !sigismember(&mask, SIGUSR2))
			atomic_fetch_add(&b->wrong, 1);
		atomic_fetch_add(&b->beat, 1);
	}
}

static void spinning(void **state)
{
	struct asked *a = *state;

	start(a, spins);
	until_more(&a->board->beat, 10);
	for (int round = 0; round < 100; round++) {
		struct subject s;

		hold(a, a->pid);
		look(a);
		struct image *before = image_of(a, a->pid);
		OK(&a->err, subject_see(a->pid, &s, &a->err));
		ask_all(a, &s);
		struct image *after = image_of(a, a->pid);
		same_image(a, before, after);
		before->regs.orig_rax = after->regs.orig_rax;           /* no call is under way */
		if (s.restart.rip == s.seen.rip)
			assert_memory_equal(&before->regs, &after->regs, sizeof(before->regs));
		image_free(before);
		image_free(after);
		subject_free(&s);
		OK(&a->err, ptrace_detach(a->pid, &a->err));
		until_more(&a->board->beat, atomic_load(&a->board->beat));
	}
	assert_int_equal(atomic_load(&a->board->wrong), 0);
}

/* Only seen, it is not touched; and an asker may change its mind. */
static void seen_only(void **state)
{
	struct asked *a = *state;
	struct subject s;

	start(a, spins);
	until_more(&a->board->beat, 10);
	for (int opened = 0; opened <= 1; opened++) {
		hold(a, a->pid);
		look(a);
		struct image *before = image_of(a, a->pid);
		OK(&a->err, subject_see(a->pid, &s, &a->err));
		if (opened)
			OK(&a->err, open_one(a, &s));
		OK(&a->err, subject_close(&s, &a->err));
		struct image *after = image_of(a, a->pid);
		same_image(a, before, after);
		assert_int_equal(s.mask, before->mask);
		assert_true(s.xsave_len <= before->xsave_len);
		image_free(before);
		image_free(after);
		OK(&a->err, ptrace_detach(a->pid, &a->err));
		subject_free(&s);
		until_more(&a->board->beat, atomic_load(&a->board->beat));
	}
	assert_int_equal(atomic_load(&a->board->wrong), 0);
}

/* Signals wait while questions are open, and come once, afterwards. */
static void signals(void **state)
{
	struct asked *a = *state;
	struct subject s;

	start(a, spins);
	until_more(&a->board->beat, 10);
	hold(a, a->pid);
	look(a);
	OK(&a->err, subject_see(a->pid, &s, &a->err));
	OK(&a->err, open_one(a, &s));
	kill(a->pid, SIGUSR1);
	assert_int_equal(ask(a, &s, SYS_getpid, 0, 0), a->pid);
	kill(a->pid, SIGUSR1);
	assert_int_equal(ask(a, &s, SYS_getppid, 0, 0), getpid());
	assert_int_equal(atomic_load(&a->board->signals), 0);
	OK(&a->err, subject_close(&s, &a->err));
	OK(&a->err, ptrace_detach(a->pid, &a->err));
	until_more(&a->board->signals, 0);
	until_more(&a->board->beat, atomic_load(&a->board->beat) + 5);
	assert_int_equal(atomic_load(&a->board->signals), 1);   /* the same signal twice is one */
	assert_int_equal(atomic_load(&a->board->wrong), 0);
	subject_free(&s);
}

/* A stop that comes meanwhile does not stop the questions, and is not lost. */
static void stopped_meanwhile(void **state)
{
	struct asked *a = *state;
	struct subject s;
	unsigned long beat;

	start(a, spins);
	until_more(&a->board->beat, 10);
	hold(a, a->pid);
	look(a);
	OK(&a->err, subject_see(a->pid, &s, &a->err));
	OK(&a->err, open_one(a, &s));
	kill(a->pid, SIGSTOP);
	for (int i = 0; i < 3; i++)
		assert_int_equal(ask(a, &s, SYS_getpid, 0, 0), a->pid);
	OK(&a->err, subject_close(&s, &a->err));
	OK(&a->err, ptrace_detach(a->pid, &a->err));
	until_state(a->pid, 'T');
	beat = atomic_load(&a->board->beat);
	kill(a->pid, SIGCONT);
	until_more(&a->board->beat, beat + 5);
	assert_int_equal(atomic_load(&a->board->wrong), 0);
	subject_free(&s);
}

/* A job that was stopped before stays so. */
static void stopped_before(void **state)
{
	struct asked *a = *state;
	struct subject s;

	start(a, spins);
	until_more(&a->board->beat, 10);
	setpgid(a->pid, a->pid);        /* a group that nobody of its session is above is not stopped by SIGTSTP */
	kill(a->pid, SIGTSTP);
	until_state(a->pid, 'T');
	hold(a, a->pid);
	look(a);
	OK(&a->err, subject_see(a->pid, &s, &a->err));
	ask_all(a, &s);
	OK(&a->err, ptrace_detach(a->pid, &a->err));
	until_state(a->pid, 'T');
	unsigned long beat = atomic_load(&a->board->beat);
	kill(a->pid, SIGCONT);
	until_more(&a->board->beat, beat + 5);
	assert_int_equal(atomic_load(&a->board->wrong), 0);
	subject_free(&s);
}

/* ---- waiting in a call ---- */

#define NAP_MS 150

static long sleeps(struct board *b)
{
	struct timespec t = { 0, NAP_MS * 1000000 };

	(void)b;
	return nanosleep(&t, &t);
}

static long sleeps_until(struct board *b)
{
	struct timespec t;

	(void)b;
	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += NAP_MS * 1000000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return -clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static long polls(struct board *b)
{
	struct pollfd p = { .fd = b->pipe_fds[0], .events = POLLIN };

	return poll(&p, 1, 60000) - 1;
}

static long selects(struct board *b)
{
	struct timeval t = { 60, 0 };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(b->pipe_fds[0], &set);
	return select(b->pipe_fds[0] + 1, &set, NULL, NULL, &t) - 1;
}

static long reads(struct board *b)
{
	char c;

	return read(b->pipe_fds[0], &c, 1) - 1;
}

static long epolls(struct board *b)
{
	struct epoll_event e = { .events = EPOLLIN };
	int fd = epoll_create1(0);

	epoll_ctl(fd, EPOLL_CTL_ADD, b->pipe_fds[0], &e);
	return epoll_wait(fd, &e, 1, 60000) - 1;
}

/* As libraries make it: the number is in the instruction before. */
static long wait_for_word(struct board *b, const struct timespec *t)
{
	register const struct timespec *timeout __asm__("r10") = t;
	long r;

	__asm__ volatile("movl %[nr], %%eax\n"
			 "syscall"
			 : "=a"(r)
			 : [nr] "i"(SYS_futex), "D"(&b->word), "S"(FUTEX_WAIT), "d"(0), "r"(timeout)
			 : "rcx", "r11", "memory");
	return r;
}

static long waits_for_word(struct board *b)
{
	return wait_for_word(b, &(struct timespec){ 60, 0 });
}

static long waits_for_word_untimed(struct board *b)
{
	return wait_for_word(b, NULL);
}

static long waits_for_signal(struct board *b)
{
	struct timespec t = { 60, 0 };
	sigset_t set;

	(void)b;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	return sigtimedwait(&set, NULL, &t) == SIGUSR2 ? 0 : -1;
}

static const struct wait {
	const char *name;
	long (*call)(struct board *);
	int nr;
	bool block;             /* goes on by restart_syscall, which knows the time left */
	int timed;              /* ends by itself */
} waits[] = {
	{ "nanosleep", sleeps, SYS_clock_nanosleep, true, true },
	{ "absolute sleep", sleeps_until, SYS_clock_nanosleep, false, true },
	{ "poll", polls, SYS_poll, true, false },
	{ "select", selects, SYS_pselect6, false, false },
	{ "read", reads, SYS_read, false, false },
	{ "epoll_wait", epolls, SYS_epoll_wait, false, false },
	{ "futex", waits_for_word, SYS_futex, true, false },
	{ "futex for ever", waits_for_word_untimed, SYS_futex, false, false },
	{ "sigtimedwait", waits_for_signal, SYS_rt_sigtimedwait, false, false },
};

static const struct wait *waiting_in;           /* set before the fork */

static void waits_in_call(void *arg)
{
	struct board *b = arg;
	sigset_t mask;
	uint64_t start_us;

	signal(SIGUSR1, handler);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	start_us = clock_us();
	b->result = waiting_in->call(b);
	b->result_errno = errno;
	b->took_us = clock_us() - start_us;
	atomic_store(&b->beat, 1);
	for (;;)
		pause();
}

/* The call's own instruction and number, whatever way it was interrupted. */
static void is_made_again(struct asked *a, const struct subject *s, const struct wait *w)
{
	uint8_t insn[2];

	OK(&a->err, sys_read_memory(a->pid, s->restart.rip, insn, sizeof(insn), &a->err));
	if (insn[0] != 0x0f || insn[1] != 0x05)
		fail_msg("%s: %llx is no syscall instruction (rax %lld, was %lld, orig %lld)", w->name, s->restart.rip,
			 (long long)s->restart.rax, (long long)s->seen.rax, (long long)s->seen.orig_rax);
	if (s->restart.rax != (uint64_t)w->nr)
		fail_msg("%s: call %lld instead of %d (seen %lld, orig %lld)", w->name, (long long)s->restart.rax, w->nr,
			 (long long)s->seen.rax, (long long)s->seen.orig_rax);
	assert_int_equal((int64_t)s->restart.orig_rax, -1);
}

static void see_and_ask(struct asked *a, const struct wait *w)
{
	struct subject s;

	OK(&a->err, subject_see(a->pid, &s, &a->err));
	is_made_again(a, &s, w);
	ask_all(a, &s);
	subject_free(&s);
	/* now it stands before the call that is to be made again */
	OK(&a->err, subject_see(a->pid, &s, &a->err));
	is_made_again(a, &s, w);
	ask_all(a, &s);
	subject_free(&s);
}

static void wake(struct asked *a, const struct wait *w)
{
	if (w->timed)
		return;
	atomic_store(&a->board->word, 1);
	assert_int_equal(write(a->board->pipe_fds[1], "x", 1), 1);
	if (w->nr == SYS_futex)
		syscall(SYS_futex, &a->board->word, FUTEX_WAKE, 1, NULL, NULL, 0);
	if (w->nr == SYS_rt_sigtimedwait)
		kill(a->pid, SIGUSR2);
}

/* Interrupted again and again, asked each time; then seen alone, and let go without a change. */
static void wait_in(struct asked *a, const struct wait *w, int asked_times)
{
	waiting_in = w;
	start(a, waits_in_call);
	until_in_call(a->pid, w->nr);
	for (int i = 0; i < asked_times; i++) {
		hold(a, a->pid);
		look(a);
		see_and_ask(a, w);
		OK(&a->err, ptrace_detach(a->pid, &a->err));
		until_in_call(a->pid, w->block ? SYS_restart_syscall : w->nr);
	}
	for (int i = 0; i < 2; i++) {
		struct subject s;

		hold(a, a->pid);
		OK(&a->err, subject_see(a->pid, &s, &a->err));
		is_made_again(a, &s, w);
		subject_free(&s);
		if (w->nr == SYS_epoll_wait || w->nr == SYS_rt_sigtimedwait)
			return;         /* the kernel itself does not make these again: only the registers do */
		OK(&a->err, ptrace_detach(a->pid, &a->err));
		until_in_call(a->pid, w->block ? SYS_restart_syscall : w->nr);
	}
	wake(a, w);
	until_more(&a->board->beat, 0);
	if (a->board->result != 0)
		fail_msg("%s: %ld, %s", w->name, a->board->result, strerror(a->board->result_errno));
	if (w->timed)
		assert_true(a->board->took_us >= NAP_MS * 1000);
}

/* As a thread is found that was let go, and stopped again before it got away: the kernel has made ready for the call. */
static void stopped_before_restart(void **state)
{
	struct asked *a = *state;
	struct user_regs_struct before, ready;
	const struct wait *w = &waits[0];
	struct subject s;

	waiting_in = w;
	start(a, waits_in_call);
	until_in_call(a->pid, w->nr);
	hold(a, a->pid);
	OK(&a->err, ptrace_get_regs(a->pid, &before, &a->err));
	ready = before;
	ready.rax = SYS_restart_syscall;
	ready.rip -= 2;
	OK(&a->err, ptrace_set_regs(a->pid, &ready, &a->err));
	OK(&a->err, subject_see(a->pid, &s, &a->err));
	is_made_again(a, &s, w);
	subject_free(&s);
	OK(&a->err, ptrace_set_regs(a->pid, &before, &a->err));
	OK(&a->err, ptrace_detach(a->pid, &a->err));
}

static void restarts(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(waits); i++)
		for (int asked_times = 0; asked_times <= 2; asked_times++) {
			struct asked *a;

			print_message("  %s, asked %d times\n", waits[i].name, asked_times);
			assert_int_equal(setup((void **)&a), 0);
			wait_in(a, &waits[i], asked_times);
			teardown((void **)&a);
		}
	(void)state;
}

/* Asked, these two go on too, for they are made again by their registers. */
static void interrupted_by_any_stop(void **state)
{
	static const int which[] = { 5, 8 };

	for (size_t i = 0; i < ARRAY_LEN(which); i++) {
		const struct wait *w = &waits[which[i]];
		struct asked *a;

		assert_int_equal(setup((void **)&a), 0);
		waiting_in = w;
		start(a, waits_in_call);
		until_in_call(a->pid, w->nr);
		for (int k = 0; k < 3; k++) {
			hold(a, a->pid);
			look(a);
			see_and_ask(a, w);
			OK(&a->err, ptrace_detach(a->pid, &a->err));
			until_in_call(a->pid, w->nr);
		}
		wake(a, w);
		until_more(&a->board->beat, 0);
		assert_int_equal(a->board->result, 0);
		teardown((void **)&a);
	}
	(void)state;
}

/* ---- restartable sequences ---- */

struct rseq_area { uint32_t cpu_start, cpu; uint64_t cs; };
struct rseq_cs { uint32_t version, flags; uint64_t start, length, abort; } __attribute__((aligned(32)));

extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

/* Spins within a critical section; whoever interrupts it sends it to its abort handler, which begins anew. */
static void in_rseq(void *arg)
{
	static struct rseq_cs cs;
	struct board *b = arg;
	struct rseq_area *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);

	__asm__ volatile("lea 1f(%%rip), %%rax\n"
			 "mov %%rax, 8(%[cs])\n"        /* start */
			 "lea 2f(%%rip), %%rcx\n"
			 "sub %%rax, %%rcx\n"
			 "mov %%rcx, 16(%[cs])\n"       /* length */
			 "lea 3f(%%rip), %%rax\n"
			 "mov %%rax, 24(%[cs])\n"       /* abort */
			 "mov %%rax, %[at]\n"
			 "4:\n"
			 "mov %[cs], 8(%[area])\n"
			 "1:\n"
			 "jmp 1b\n"
			 "2:\n"
			 "ud2\n"
			 ".long 0x53053053\n"
			 "3:\n"
			 "lock incq %[beat]\n"
			 "jmp 4b\n"
			 :
			 : [cs] "r"(&cs), [area] "r"(area), [beat] "m"(b->beat), [at] "m"(b->at)
			 : "rax", "rcx", "memory");
}

static void rseq(void **state)
{
	struct asked *a = *state;
	int within = 0;

	if (!&__rseq_size || __rseq_size == 0)
		skip();
	start(a, in_rseq);
	until_more(&a->board->at, 0);
	for (int i = 0; i < 200; i++) {
		struct subject s;
		unsigned long beat;
		uint64_t cs;

		hold(a, a->pid);
		look(a);
		OK(&a->err, subject_see(a->pid, &s, &a->err));
		assert_true(s.rseq.pointer != 0);
		OK(&a->err, sys_read_memory(a->pid, s.rseq.pointer + 8, &cs, sizeof(cs), &a->err));
		if (cs && s.seen.rip + 8 > atomic_load(&a->board->at) - 8 && s.seen.rip < atomic_load(&a->board->at) - 4) {
			within++;
			assert_int_equal(s.restart.rip, atomic_load(&a->board->at));
			assert_int_equal(s.back.rip, atomic_load(&a->board->at));
		}
		ask_all(a, &s);
		subject_free(&s);
		beat = atomic_load(&a->board->beat);
		OK(&a->err, ptrace_detach(a->pid, &a->err));
		until_more(&a->board->beat, beat);      /* it was aborted, once at least, and lives */
	}
	assert_true(within > 50);
}

/* ---- several threads, strange stacks ---- */

static void *second_thread(void *arg)
{
	struct board *b = arg;

	atomic_store(&b->other_tid, (unsigned long)gettid());
	for (;;)
		pause();
	return NULL;
}

static void two_threads(void *arg)
{
	pthread_t t;

	pthread_create(&t, NULL, second_thread, arg);
	for (;;)
		pause();
}

static void both_at_once(void **state)
{
	struct asked *a = *state;
	struct subject s[2];
	struct question q[2] = { { .subject = &s[0], .nr = SYS_gettid }, { .subject = &s[1], .nr = SYS_gettid } };
	pid_t other;

	start(a, two_threads);
	until_more(&a->board->other_tid, 0);
	other = (pid_t)atomic_load(&a->board->other_tid);
	until_in_call(other, SYS_pause);
	until_in_call(a->pid, SYS_pause);
	hold(a, a->pid);
	hold(a, other);
	look(a);
	OK(&a->err, subject_see(a->pid, &s[0], &a->err));
	OK(&a->err, subject_see(other, &s[1], &a->err));
	for (int i = 0; i < 2; i++)
		OK(&a->err, subject_open(&s[i], &a->gadgets, &a->maps, s, 2, &a->err));
	for (int i = 0; i < 5; i++) {
		OK(&a->err, question_ask(q, 2, &a->err));
		assert_true(q[0].answer == a->pid && q[1].answer == other);
	}
	for (int i = 0; i < 2; i++) {
		OK(&a->err, subject_close(&s[i], &a->err));
		OK(&a->err, ptrace_detach(s[i].tid, &a->err));
		subject_free(&s[i]);
	}
	until_in_call(other, SYS_pause);
	until_in_call(a->pid, SYS_pause);
}

/* While a thread is open nothing but dead stack is other than it was: checked from `at` on. */
static int open_changes_nothing(struct asked *a, struct subject *all, size_t index, taddr at, size_t len)
{
	uint8_t *before = mem_new(len), *now = mem_new(len);
	int r;

	OK(&a->err, sys_read_memory(a->pid, at, before, len, &a->err));
	r = subject_open(&all[index], &a->gadgets, &a->maps, all, 2, &a->err);
	if (r == 0)
		assert_int_equal(ask(a, &all[index], SYS_gettid, 0, 0), all[index].tid);
	OK(&a->err, sys_read_memory(a->pid, at, now, len, &a->err));
	assert_memory_equal(before, now, len);
	OK(&a->err, subject_close(&all[index], &a->err));
	free(before);
	free(now);
	return r;
}

enum { SECOND = 1, IN_PIECES = 2, BACK = 4, UNTOUCHED = 8, WAYS = 16, CUT = 20 };

/* The stack pointer is moved far below what the stack has grown to, and nothing was written there yet. */
static void far_below(struct board *b)
{
	__asm__ volatile("mov %%rsp, %%rbx\n"
			 "sub $65536, %%rsp\n"
			 "1: lock incq %[beat]\n"
			 "cmpl $0, %[word]\n"
			 "je 1b\n"
			 "mov %%rbx, %%rsp\n"
			 : [beat] "+m"(*(uint64_t *)&b->beat)
			 : [word] "m"(*(uint32_t *)&b->word)
			 : "rbx", "memory", "cc");
}

static void until_word(struct board *b)
{
	while (!atomic_load(&b->word))
		atomic_fetch_add(&b->beat, 1);
}

static __attribute__((noinline)) int deep(struct board *b, int left)
{
	const unsigned long how = atomic_load(&b->go);
	volatile char frame[8192];
	int sum;

	memset((void *)frame, left, sizeof(frame));
	if (left == 0 && how & UNTOUCHED)
		far_below(b);
	else if (left == 0 && !(how & BACK))
		until_word(b);
	if (left == 0)
		return 0;
	if (left == CUT && how & IN_PIECES)
		madvise((void *)((uintptr_t)frame & -4096ul), 4096, MADV_DONTDUMP);
	sum = deep(b, left - 1) + frame[left];
	if (left == CUT + 1 && how & BACK)
		until_word(b);
	return sum;
}

static void goes_deep(void *arg)
{
	struct board *b = arg;

	if (atomic_load(&b->go) & SECOND) {
		pthread_t t;

		pthread_create(&t, NULL, second_thread, arg);
		until_more(&b->other_tid, 0);
	}
	deep(b, 60);
}

/* What the stack has grown to at and above where a thread stands: the red zone may be below it. */
static taddr grown_at(struct asked *a, taddr rsp)
{
	for (size_t i = 0; i < a->maps.len; i++)
		if (a->maps.at[i].end > rsp)
			return a->maps.at[i].start > rsp - 128 ? a->maps.at[i].start : rsp - 128;
	fail_msg("nothing above the stack pointer");
	return 0;
}

/*
 * The stack pointer of the main thread is at the very end of what its stack has ever been, or beyond it: there is no
 * room below, and what is above is alive.  So it is made to grow, alone or beside another thread, in one piece or
 * in several.  Or it is back where one of several pieces ends: the room is in the pieces below.
 */
static void no_room(void **state)
{
	struct asked *a = *state;

	for (unsigned long how = 0; how < WAYS; how++) {
		const unsigned long threads = how & SECOND ? 2 : 1;
		struct subject s[2] = { 0 };
		pid_t other;

		atomic_store(&a->board->go, how);
		atomic_store(&a->board->beat, 0);
		atomic_store(&a->board->other_tid, 0);
		start(a, goes_deep);
		until_more(&a->board->beat, 0);
		other = threads == 2 ? (pid_t)atomic_load(&a->board->other_tid) : a->pid;
		hold(a, a->pid);
		if (other != a->pid)
			hold(a, other);
		look(a);
		OK(&a->err, subject_see(a->pid, &s[0], &a->err));
		OK(&a->err, subject_see(other, &s[1], &a->err));
		struct image *before = image_of(a, a->pid);
		taddr from = grown_at(a, s[0].seen.rsp);

		OK(&a->err, open_changes_nothing(a, s, 0, from, stack_of(a)->end - from));
		struct image *after = image_of(a, a->pid);
		same_image(a, before, after);
		assert_memory_equal(&before->regs.rip, &after->regs.rip, 8);
		assert_int_equal(before->regs.rsp, after->regs.rsp);
		image_free(before);
		image_free(after);
		subject_free(&s[0]);
		subject_free(&s[1]);
		OK(&a->err, ptrace_detach(a->pid, &a->err));
		if (other != a->pid)
			OK(&a->err, ptrace_detach(other, &a->err));
		until_more(&a->board->beat, atomic_load(&a->board->beat));
		task_end(a->pid);
		a->pid = 0;
	}
}

#define HEAP (256u * 1024)

static struct board *coroutine_board;
static char *heap;

static void coroutine(void)
{
	volatile char used[8 * 1024];

	memset((void *)used, 1, sizeof(used));
	atomic_store(&coroutine_board->at, (uintptr_t)heap);
	for (;;)
		atomic_fetch_add(&coroutine_board->beat, used[0]);
}

/* Memory of the kind that libraries take, right below the thread's own data if it can be: they become one mapping. */
static char *heap_below_tls(void)
{
	struct proc_maps maps = { 0 };
	struct err err;
	char *at = MAP_FAILED;

	if (proc_maps(getpid(), &maps, &err) == 0) {
		const struct proc_map *m = proc_maps_find(&maps, (uintptr_t)__builtin_thread_pointer());

		at = mmap((void *)(m->start - HEAP), HEAP, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	}
	proc_maps_free(&maps);
	return at != MAP_FAILED ? at : mmap(NULL, HEAP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void on_a_heap_stack(void *arg)
{
	ucontext_t here, there;

	coroutine_board = arg;
	getcontext(&there);
	there.uc_stack.ss_sp = heap + HEAP / 2;
	there.uc_stack.ss_size = 12 * 1024;
	there.uc_link = &here;
	makecontext(&there, coroutine, 0);
	swapcontext(&here, &there);
}

/* A stack that was cut out of a heap may have anything below it. */
static void stack_in_a_heap(void **state)
{
	struct asked *a = *state;
	struct subject s[2];

	heap = heap_below_tls();        /* before the fork: pages of two forks don't become one mapping */
	memset(heap, 0x5a, HEAP);
	start(a, on_a_heap_stack);
	until_more(&a->board->beat, 0);
	hold(a, a->pid);
	look(a);
	OK(&a->err, subject_see(a->pid, &s[0], &a->err));
	assert_true(s[0].seen.rsp - atomic_load(&a->board->at) < HEAP);
	s[1] = s[0];
	OK(&a->err, open_changes_nothing(a, s, 0, atomic_load(&a->board->at), HEAP));
	OK(&a->err, ptrace_detach(a->pid, &a->err));
	until_more(&a->board->beat, atomic_load(&a->board->beat));
	subject_free(&s[0]);
}

#define CROWD       40
#define CROWD_STACK (64u * 1024)

static void crowd(void *arg)
{
	struct board *b = arg;
	char *stacks = mmap(NULL, CROWD * CROWD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (int i = 0; i < CROWD; i++) {       /* one mapping, no guards: nobody can tell whose is what */
		pthread_attr_t attr;
		pthread_t t;

		pthread_attr_init(&attr);
		pthread_attr_setstack(&attr, stacks + (size_t)i * CROWD_STACK, CROWD_STACK);
		pthread_create(&t, &attr, second_thread, arg);
	}
	atomic_store(&b->at, (uintptr_t)stacks);
	for (;;)
		pause();
}

/* Many borrow at once: each its own piece, far from whoever lends it; who comes too late comes again. */
static void many_borrow(void **state)
{
	struct asked *a = *state;
	struct subject s[CROWD + 1];
	struct proc_ids tids;
	size_t opened = 0, len = CROWD * CROWD_STACK;
	uint8_t *before = mem_new(len), *now = mem_new(len);

	start(a, crowd);
	until_more(&a->board->at, 0);
	OK(&a->err, proc_threads(a->pid, &tids, &a->err));
	assert_int_equal(tids.len, CROWD + 1);
	for (size_t i = 0; i <= CROWD; i++) {
		until_in_call(tids.at[i], SYS_pause);
		hold(a, tids.at[i]);
		OK(&a->err, subject_see(tids.at[i], &s[i], &a->err));
	}
	look(a);
	OK(&a->err, sys_read_memory(a->pid, atomic_load(&a->board->at), before, len, &a->err));
	for (size_t i = 0; i <= CROWD; i++) {
		int r = subject_open(&s[i], &a->gadgets, &a->maps, s, CROWD + 1, &a->err);

		if (r < 0)
			FAILS(&a->err, ENOSPC, "no room", r);
		else
			opened++;
		for (size_t k = 0; r == 0 && k < i; k++)
			assert_true(!s[k].open || s[k].saved_at >= s[i].saved_at + s[i].saved_len ||
				    s[i].saved_at >= s[k].saved_at + s[k].saved_len);
	}
	assert_in_range(opened, 8, CROWD);
	for (size_t i = 0; i <= CROWD; i++)
		if (s[i].open)
			assert_int_equal(ask(a, &s[i], SYS_gettid, 0, 0), s[i].tid);
	OK(&a->err, sys_read_memory(a->pid, atomic_load(&a->board->at), now, len, &a->err));
	for (size_t i = 0; i < CROWD; i++)      /* at the top lies what is the thread's own, where the kernel writes too */
		assert_memory_equal(before + i * CROWD_STACK, now + i * CROWD_STACK, CROWD_STACK - 5 * 1024);
	for (size_t i = 0; i <= CROWD; i++) {
		bool late = !s[i].open;

		if (late)
			OK(&a->err, subject_open(&s[i], &a->gadgets, &a->maps, s, CROWD + 1, &a->err));
		assert_int_equal(ask(a, &s[i], SYS_gettid, 0, 0), s[i].tid);
		OK(&a->err, subject_close(&s[i], &a->err));
	}
	for (size_t i = 0; i <= CROWD; i++) {
		OK(&a->err, ptrace_detach(s[i].tid, &a->err));
		until_in_call(s[i].tid, SYS_pause);
		subject_free(&s[i]);
	}
	vec_free(&tids);
	free(before);
	free(now);
}

/* ---- many questions at once ---- */

static void ahead(void **state)
{
	static const struct standing_question all[] = {
		{ .nr = SYS_gettid },
		{ .nr = SYS_prctl, .arg = { PR_GET_CHILD_SUBREAPER }, .out_arg = 1 },
		{ .nr = SYS_close, .arg = { 98765 } },
		{ .nr = SYS_prctl, .arg = { PR_GET_NAME }, .out_arg = 1 },
	};
	struct asked *a = *state;

	start(a, spins);
	until_more(&a->board->beat, 10);
	for (int round = 0; round < 20; round++) {
		struct subject s, *list = &s;
		char name[16] = "";
		int32_t subreaper = -1;
		int64_t answer;

		hold(a, a->pid);
		look(a);
		OK(&a->err, subject_see(a->pid, &s, &a->err));
		a->gadgets.signal = round % 2 ? gadgets_choose_signal(&a->gadgets, 0, 0) : 0;
		struct image *before = image_of(a, a->pid);
		OK(&a->err, open_one(a, &s));
		OK(&a->err, question_ask_ahead(&list, 1, all, ARRAY_LEN(all), &a->err));
		OK(&a->err, question_ask_one(&s, SYS_prctl, (uint64_t[6]){ PR_GET_NAME }, &answer, &a->err));
		OK(&a->err, question_read(&s, 0, name, sizeof(name), &a->err));
		assert_memory_equal(name, "test_inject_que", 15);
		OK(&a->err, question_ask_one(&s, SYS_prctl, (uint64_t[6]){ PR_GET_CHILD_SUBREAPER }, &answer, &a->err));
		OK(&a->err, question_read(&s, 0, &subreaper, sizeof(subreaper), &a->err));
		assert_int_equal(subreaper, 0);
		FAILS(&a->err, ERANGE, "not kept", question_read(&s, 16, before, 17, &a->err));
		OK(&a->err, question_ask_one(&s, SYS_gettid, (uint64_t[6]){ 0 }, &answer, &a->err));
		assert_int_equal(answer, a->pid);
		OK(&a->err, question_ask_one(&s, SYS_close, (uint64_t[6]){ 98765 }, &answer, &a->err));
		assert_int_equal(answer, -EBADF);
		assert_int_equal(ask(a, &s, SYS_getpid, 0, 0), a->pid);         /* one that nobody had foreseen */
		OK(&a->err, subject_close(&s, &a->err));
		struct image *after = image_of(a, a->pid);
		same_image(a, before, after);
		image_free(before);
		image_free(after);
		subject_free(&s);
		OK(&a->err, ptrace_detach(a->pid, &a->err));
		until_more(&a->board->beat, atomic_load(&a->board->beat));
	}
	assert_int_equal(atomic_load(&a->board->wrong), 0);
}

/* ---- ends ---- */

static void thread_dies(void **state)
{
	struct asked *a = *state;
	struct subject s;
	struct question q = { .subject = &s, .nr = SYS_exit_group };

	start(a, spins);
	until_more(&a->board->beat, 10);
	hold(a, a->pid);
	look(a);
	OK(&a->err, subject_see(a->pid, &s, &a->err));
	OK(&a->err, open_one(a, &s));
	FAILS(&a->err, ESRCH, "died", question_ask(&q, 1, &a->err));
	assert_true(subject_close(&s, &a->err) < 0);
	subject_free(&s);
	assert_true(subject_see(a->pid, &s, &a->err) < 0);
}

int main(void)
{
#define ASK_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		ASK_TEST(spinning),
		ASK_TEST(seen_only),
		ASK_TEST(signals),
		ASK_TEST(stopped_meanwhile),
		ASK_TEST(stopped_before),
		ASK_TEST(stopped_before_restart),
		cmocka_unit_test(restarts),
		cmocka_unit_test(interrupted_by_any_stop),
		ASK_TEST(rseq),
		ASK_TEST(both_at_once),
		ASK_TEST(no_room),
		ASK_TEST(stack_in_a_heap),
		ASK_TEST(many_borrow),
		ASK_TEST(ahead),
		ASK_TEST(thread_dies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
