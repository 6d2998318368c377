/* SPDX-License-Identifier: Apache-2.0 */
/* refused MODE: programs that can't be dumped (yet): each of them must be told by name, and run on. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "odd.h"

static char stack[65536] __attribute__((aligned(4096)));

static int be_child(void *arg)
{
	(void)arg;
	forever();
}

static void *after_leader(void *arg)
{
	pthread_join(*(pthread_t *)arg, NULL);
	ready();
}

static void *own_table(void *arg)
{
	(void)arg;
	MUST(unshare(CLONE_FILES) == 0);
	ready();
}

static void *own_directory(void *arg)
{
	(void)arg;
	MUST(unshare(CLONE_FS) == 0);
	ready();
}

static void *own_namespace(void *arg)
{
	(void)arg;
	MUST(unshare(CLONE_NEWUTS) == 0);
	ready();
}

static void by_thread(void *(*body)(void *))
{
	pthread_t t;

	MUST(pthread_create(&t, NULL, body, NULL) == 0);
	forever();
}

static void leader_gone(void)
{
	static pthread_t leader;
	pthread_t t;

	leader = pthread_self();
	MUST(pthread_create(&t, NULL, after_leader, &leader) == 0);
	pthread_exit(NULL);
}

static void vforked(void)
{
	if (vfork() == 0) {
		say("ready");
		for (;;)
			syscall(SYS_pause);
	}
}

/* Its session's leader is the grandchild of the root: nobody from whom it could be cloned again is in that session. */
static void orphan(void)
{
	pid_t between;

	if (fork() != 0)
		forever();
	if (fork() != 0)
		forever();
	MUST(setsid() > 0);
	between = fork();
	if (between == 0) {
		pid_t self = getpid();

		if (fork() != 0)
			_exit(0);
		while (getppid() == self)
			sched_yield();
		ready();
	}
	waitpid(between, NULL, 0);
	forever();
}

int main(int argc, char **argv)
{
	pid_t pid;

	MUST(argc == 2);
	if (MODE("leader-gone"))
		leader_gone();
	if (MODE("thread-table"))
		by_thread(own_table);
	if (MODE("thread-directory"))
		by_thread(own_directory);
	if (MODE("thread-namespace"))
		by_thread(own_namespace);
	if (MODE("child-namespace"))
		MUST(unshare(CLONE_NEWPID) == 0);
	if (MODE("shared-memory"))
		MUST(clone(be_child, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL) > 0);
	if (MODE("shared-directory"))
		MUST(clone(be_child, stack + sizeof(stack), CLONE_FS | SIGCHLD, NULL) > 0);
	if (MODE("vfork"))
		vforked();
	if (MODE("traced")) {
		pid = fork();
		if (pid == 0)
			forever();
		MUST(ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0);
	}
	if (MODE("proc"))
		MUST(open("/proc/self/fdinfo/1", O_RDONLY) >= 0);
	if (MODE("protection-key"))
		MUST(pkey_mprotect(stack, 4096, PROT_READ, pkey_alloc(0, 0)) == 0);
	if (MODE("directory-gone")) {
		MUST(mkdir("gone", 0755) == 0);
		MUST(open("gone", O_RDONLY) >= 0);
		MUST(rmdir("gone") == 0);
	}
	if (MODE("orphan")) {
		MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
		orphan();
	}
	ready();
}
