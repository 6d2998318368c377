/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shapes MODE [N]: programs of an odd shape that survive: large numbers of things, files whose names went away,
 * threads on strange stacks.
 */
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "odd.h"

static void mappings(long n)
{
	for (long i = 0; i < n; i++) {
		int prot = i % 2 ? PROT_READ : PROT_READ | PROT_WRITE;
		char *p = mmap(NULL, 4096, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		MUST(p != MAP_FAILED);
		if (i % 2 == 0)
			p[0] = (char)i;
	}
}

static void sparse(int flags)
{
	char *p = mmap(NULL, 64ul << 30, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	MUST(p != MAP_FAILED);
	for (unsigned long i = 0; i < 64; i++)
		p[i << 30] = (char)(i + 1);
}

static void descriptors(long n)
{
	const struct rlimit most = { 20000, 20000 };

	MUST(setrlimit(RLIMIT_NOFILE, &most) == 0);
	for (long i = 0; i < n; i++)
		MUST(eventfd((unsigned int)i, EFD_CLOEXEC) >= 0);
}

static void children(long n)
{
	for (long i = 0; i < n; i++) {
		pid_t pid = fork();

		MUST(pid >= 0);
		if (pid == 0)
			forever();
	}
}

static void levels(long n)
{
	for (long i = 0; i < n; i++) {
		pid_t pid = fork();

		MUST(pid >= 0);
		if (pid > 0)
			forever();
	}
}

static void *sleeper(void *arg)
{
	(void)arg;
	forever();
}

static int last_pid(const char *set, char *ret_was)
{
	int fd = open("/proc/sys/kernel/ns_last_pid", O_RDWR | O_CLOEXEC);
	ssize_t n = ret_was ? read(fd, ret_was, 31) : 0;

	if (fd < 0 || n < 0 || (set && write(fd, set, strlen(set)) < 0))
		return -1;
	close(fd);
	return (int)n;
}

/* Ids have come round: the leader has not the lowest. */
static void low_thread(void)
{
	char low[32], was[32] = "";
	pthread_t t;

	snprintf(low, sizeof(low), "%d", getpid() / 2);
	MUST(last_pid(NULL, was) > 0 && last_pid(low, NULL) == 0);
	MUST(pthread_create(&t, NULL, sleeper, NULL) == 0);
	MUST(last_pid(was, NULL) == 0);
}

static void on_signal(int signal)
{
	volatile char here[4096];

	if (signal == SIGUSR2)
		return;
	memset((void *)here, 7, sizeof(here));
	say("ready");
	pause();
	for (size_t i = 0; i < sizeof(here); i++)
		MUST(here[i] == 7);
	say("back");
}

/* Stays in a handler on another stack, until SIGUSR2. */
static void on_altstack(void *at, size_t size)
{
	const stack_t stack = { .ss_sp = at, .ss_size = size };
	const struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };

	MUST(sigaltstack(&stack, NULL) == 0);
	MUST(sigaction(SIGUSR1, &act, NULL) == 0);
	MUST(sigaction(SIGUSR2, &act, NULL) == 0);
	raise(SIGUSR1);
	forever();
}

static void put_file(const char *path, const char *text)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0755);

	MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

/* As an upgrade of its package does. */
static void replace_program(const char *path)
{
	put_file("new", "#!/bin/false\n");
	MUST(rename("new", path) == 0);
}

static void directory_gone(void)
{
	MUST(mkdir("gone", 0755) == 0 && mkdir("gone/deep", 0755) == 0);
	put_file("gone/deep/file", "text");
	MUST(open("gone/deep/file", O_RDWR) >= 0);
	put_file("gone/deep/other", "text");
	MUST(open("gone/deep/other", O_RDWR) >= 0);
	MUST(unlink("gone/deep/file") == 0 && unlink("gone/deep/other") == 0);
	MUST(rmdir("gone/deep") == 0 && rmdir("gone") == 0);
}

/* A dead child in the group of a dead child that was waited for. */
static void dead_in_group(void)
{
	int start[2];
	pid_t leader, member;
	siginfo_t si;

	MUST(pipe(start) == 0);
	leader = fork();
	if (leader == 0) {
		MUST(setpgid(0, 0) == 0);
		_exit(3);
	}
	setpgid(leader, leader);
	member = fork();
	if (member == 0) {
		char go;

		MUST(read(start[0], &go, 1) == 1);
		_exit(4);
	}
	MUST(setpgid(member, leader) == 0);
	MUST(write(start[1], "", 1) == 1);
	MUST(waitid(P_PID, (id_t)member, &si, WEXITED | WNOWAIT) == 0);
	MUST(waitpid(leader, NULL, 0) == leader);
}

/* Nothing is mapped below its stack pointer but a page or so. */
static void deep_stack(void)
{
	volatile char much[1 << 20];

	memset((void *)much, 1, sizeof(much));
	ready();
}

int main(int argc, char **argv)
{
	static char alternate[65536];
	long n = argc > 2 ? atol(argv[2]) : 0;

	MUST(argc >= 2);
	if (MODE("mappings"))
		mappings(n);
	if (MODE("sparse"))
		sparse(MAP_PRIVATE);
	if (MODE("sparse-shared"))
		sparse(MAP_SHARED);
	if (MODE("descriptors"))
		descriptors(n);
	if (MODE("inherited")) {
		descriptors(n);
		children(10);
	}
	if (MODE("children"))
		children(n);
	if (MODE("levels"))
		levels(n);
	if (MODE("low-thread"))
		low_thread();
	if (MODE("altstack-heap"))
		on_altstack(malloc(sizeof(alternate)), sizeof(alternate));
	if (MODE("altstack-data"))
		on_altstack(alternate, sizeof(alternate));
	if (MODE("program-gone"))
		MUST(unlink(argv[0]) == 0);
	if (MODE("program-replaced"))
		replace_program(argv[0]);
	if (MODE("directory-gone"))
		directory_gone();
	if (MODE("semaphore"))
		MUST(sem_open(argv[2], O_CREAT | O_EXCL, 0600, 1) != SEM_FAILED);
	if (MODE("deep-stack"))
		deep_stack();
	if (MODE("dead-in-group"))
		dead_in_group();
	ready();
}
