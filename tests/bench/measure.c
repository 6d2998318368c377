/* SPDX-License-Identifier: Apache-2.0 */
/*
 * measure COMMAND ARGS...: runs a command, its words thrown away, and prints
 * "STATUS WALL_US MAXRSS_KIB". It is small, since what a process had in memory
 * before it became the command counts as the command's peak.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const double begin = now_us();
	struct rusage usage;
	int wstatus;
	pid_t pid;

	if (argc < 2)
		return 2;
	pid = vfork();
	if (pid == 0) {
		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	if (pid < 0 || wait4(pid, &wstatus, 0, &usage) < 0)
		return 2;
	printf("%d %.0f %ld\n", WIFEXITED(wstatus) ? WEXITSTATUS(wstatus) : 128 + WTERMSIG(wstatus), now_us() - begin, usage.ru_maxrss);
	return 0;
}
