/* SPDX-License-Identifier: Apache-2.0 */
/*
 * waiter OUT CALL: sleeps in one system call, with a handler for SIGUSR1. Says "ready" before it, and what the call
 * returned and how often the handler ran after it. "read again": the handler is one after which a call goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int handled;

static void count(int signal)
{
	(void)signal;
	handled++;
}

__attribute__((format(printf, 2, 3)))
static void say(const char *path, const char *fmt, ...)
{
	char line[100];
	va_list ap;
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);

	va_start(ap, fmt);
	int len = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (write(fd, line, (size_t)len) != len)
		_exit(99);
	close(fd);
}

static long wait_in(const char *call)
{
	struct epoll_event event;
	uint32_t word = 0;
	int fds[2];
	char c;

	if (strcmp(call, "pause") == 0)
		return pause();
	if (strcmp(call, "poll") == 0)
		return poll(NULL, 0, 3600000);
	if (strcmp(call, "epoll_wait") == 0)
		return epoll_wait(epoll_create1(0), &event, 1, -1);
	if (strcmp(call, "nanosleep") == 0)
		return nanosleep(&(struct timespec){ 3600, 0 }, NULL);
	if (strcmp(call, "raw futex") == 0)     /* by syscall(): no code says before the call which one it is */
		return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &(struct timespec){ 3600, 0 }, NULL, 0);
	return pipe(fds) == 0 ? read(fds[0], &c, 1) : -2;
}

int main(int argc, char **argv)
{
	struct sigaction act = { .sa_handler = count };

	if (argc < 3)
		return 2;
	if (strcmp(argv[2], "read again") == 0)
		act.sa_flags = SA_RESTART;
	sigaction(SIGUSR1, &act, NULL);
	say(argv[1], "ready\n");
	long ret = wait_in(argv[2]);
	say(argv[1], "%ld %s, handled %d\n", ret, ret < 0 ? strerror(errno) : "", handled);
	for (;;)
		pause();
}
