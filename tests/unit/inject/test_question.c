/* SPDX-License-Identifier: Apache-2.0 */
/* A thread that is asked is, when it is let go, what it was: registers, stack, signals, and the call that it waits in. */
#include "asked.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/own.h"
#include "kernel/sys.h"

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

/* ---- several threads ---- */

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
		ASK_TEST(ahead),
		ASK_TEST(thread_dies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
