/* SPDX-License-Identifier: Apache-2.0 */
/* churn MODE: threads and processes come and go without a pause, and the program looks at how each of them ended. */
#include <pthread.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>

#include "odd.h"

enum { AT_ONCE = 4, STATUS = 7 };

static void *echo(void *arg)
{
	return arg;
}

static void *sleeper(void *arg)
{
	(void)arg;
	forever();
}

static void threads(void)
{
	for (uintptr_t n = 0;; n++) {
		pthread_t t[AT_ONCE];

		for (uintptr_t i = 0; i < AT_ONCE; i++)
			MUST(pthread_create(&t[i], NULL, echo, (void *)(n + i)) == 0);
		for (uintptr_t i = 0; i < AT_ONCE; i++) {
			void *got;

			MUST(pthread_join(t[i], &got) == 0);
			MUST(got == (void *)(n + i));
		}
	}
}

static void wait_for(pid_t pid, int wanted)
{
	int status;

	MUST(pid > 0);
	MUST(waitpid(pid, &status, 0) == pid);
	MUST(WIFEXITED(status) && WEXITSTATUS(status) == wanted);
}

static void forks(int levels)
{
	pid_t pid = fork();

	if (pid == 0 && levels == 1)
		_exit(STATUS);
	if (pid == 0) {
		forks(levels - 1);
		_exit(STATUS);
	}
	wait_for(pid, STATUS);
}

static void spawn(void)
{
	pid_t pid = vfork();

	if (pid == 0) {
		execl("/bin/true", "true", NULL);
		_exit(STATUS);
	}
	wait_for(pid, 0);
}

static void *busy(void *arg)
{
	for (volatile unsigned int n = 0;; n++)
		;
	return arg;
}

static void run_again(char **argv)
{
	execl("/proc/self/exe", argv[0], argv[1], "again", NULL);
	MUST(0);
}

static void *exec_by_thread(void *arg)
{
	run_again(arg);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t t;

	if (argc == 2)
		say("ready");
	if (MODE("threads"))
		threads();
	while (MODE("forks"))
		forks(1);
	while (MODE("grandforks"))
		forks(2);
	while (MODE("spawns"))
		spawn();
	if (MODE("execs"))
		run_again(argv);
	if (MODE("execs-over-threads")) {
		MUST(pthread_create(&t, NULL, busy, NULL) == 0);
		for (volatile unsigned int n = (unsigned int)getpid() * 7919 % 1000000 + (unsigned int)clock() % 1000000; n; n--)
			;
		run_again(argv);
	}
	if (MODE("thread-execs")) {
		MUST(pthread_create(&t, NULL, sleeper, NULL) == 0);
		MUST(pthread_create(&t, NULL, exec_by_thread, argv) == 0);
		forever();
	}
	MUST(!"a mode");
}
