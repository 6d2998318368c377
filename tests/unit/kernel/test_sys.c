/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls that have no libc wrapper do what their header says. */
#include "cm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/sys.h"

static void clone_and_wait(void **state)
{
	const struct sys_clone args = { .exit_signal = SIGCHLD };
	struct err err;
	int status;
	pid_t pid = sys_clone3(&args, &err);

	(void)state;
	if (pid == 0)
		_exit(7);
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 7);
	assert_int_equal(sys_fork_as(getpid(), &err), geteuid() == 0 ? -EEXIST : -EPERM);
}

static void descriptor_of_a_task(void **state)
{
	own_fd event = eventfd(5, EFD_CLOEXEC), pidfd = -1, taken = -1;
	uint64_t count;
	struct err err;

	(void)state;
	assert_int_equal(sys_pidfd_open(getpid(), 0, &pidfd, &err), 0);
	assert_int_equal(sys_pidfd_getfd(pidfd, event, &taken, &err), 0);
	assert_int_equal(read(taken, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 5);
	assert_int_equal(sys_pidfd_getfd(pidfd, 1234567, &taken, &err), -EBADF);
	assert_int_equal(sys_pidfd_send_signal(pidfd, 0, &err), 0);
	assert_int_equal(sys_pidfd_open(-1, 0, &pidfd, &err), -EINVAL);
}

static void same_or_not(void **state)
{
	own_fd a = eventfd(0, EFD_CLOEXEC), b = eventfd(0, EFD_CLOEXEC), c = dup(a), ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev = { .events = EPOLLIN };
	struct sys_kcmp_epoll in = { .efd = (uint32_t)ep, .tfd = (uint32_t)a };
	pid_t me = getpid();
	struct err err;
	int ab, ba;

	(void)state;
	assert_int_equal(sys_kcmp(me, me, SYS_KCMP_FILE, (uint64_t)a, (uint64_t)c, &err), 0);
	ab = sys_kcmp(me, me, SYS_KCMP_FILE, (uint64_t)a, (uint64_t)b, &err);
	ba = sys_kcmp(me, me, SYS_KCMP_FILE, (uint64_t)b, (uint64_t)a, &err);
	assert_true(ab + ba == 3 && ab > 0 && ba > 0);
	assert_int_equal(sys_kcmp(me, me, SYS_KCMP_VM, 0, 0, &err), 0);
	assert_int_equal(sys_kcmp(me, me, SYS_KCMP_FILE, (uint64_t)a, 1234567, &err), -EBADF);
	assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, a, &ev), 0);
	assert_int_equal(sys_kcmp(me, me, SYS_KCMP_EPOLL_TFD, (uint64_t)c, (uint64_t)&in, &err), 0);
	assert_true(sys_kcmp(me, me, SYS_KCMP_EPOLL_TFD, (uint64_t)b, (uint64_t)&in, &err) > 0);
}

static void memory_of_a_task(void **state)
{
	char *there = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char buf[8192];
	struct err err;

	(void)state;
	assert_ptr_not_equal(there, MAP_FAILED);
	memset(buf, 'x', sizeof(buf));
	assert_int_equal(sys_write_memory(getpid(), (uint64_t)there, buf, sizeof(buf), &err), 0);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(sys_read_memory(getpid(), (uint64_t)there, buf, sizeof(buf), &err), 0);
	assert_true(buf[0] == 'x' && buf[8191] == 'x');
	assert_int_equal(munmap(there + 4096, 4096), 0);
	assert_int_equal(sys_read_memory(getpid(), (uint64_t)there, buf, sizeof(buf), &err), -EFAULT);
	assert_int_equal(sys_read_memory(getpid(), (uint64_t)there, buf, 0, &err), 0);
	munmap(there, 4096);
}

static volatile sig_atomic_t ticks;

static void on_tick(int signal)
{
	(void)signal;
	ticks = ticks + 1;
}

/* A poll that a signal meets ends with EINTR, though it need not wait. */
static void poll_among_signals(void **state)
{
	const struct itimerval often = { { 0, 50 }, { 0, 50 } }, never = { 0 };
	int fds[2], wrong = 0;
	struct err err;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	signal(SIGALRM, on_tick);
	setitimer(ITIMER_REAL, &often, NULL);
	while (ticks < 2000 && !wrong)
		wrong = sys_poll_now(fds[0], POLLIN, &err);
	setitimer(ITIMER_REAL, &never, NULL);
	assert_int_equal(wrong, 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	close(fds[1]);
	assert_int_equal(sys_poll_now(fds[0], POLLIN, &err), POLLIN | POLLHUP);
	close(fds[0]);
}

static void robust_list(void **state)
{
	struct err err;
	uint64_t head;
	size_t len;

	(void)state;
	assert_int_equal(sys_get_robust_list(gettid(), &head, &len, &err), 0);
	assert_true(head != 0 && len == 24);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clone_and_wait), cmocka_unit_test(descriptor_of_a_task), cmocka_unit_test(same_or_not),
		cmocka_unit_test(memory_of_a_task), cmocka_unit_test(poll_among_signals), cmocka_unit_test(robust_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
