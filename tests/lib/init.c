/* SPDX-License-Identifier: Apache-2.0 */
/*
 * init [-n] COMMAND ARGS...: runs a command in pid, mount, network and IPC namespaces of its own; -n: but in the caller's network.
 *
 *	init (outside) -- waits, passes the status on
 *	  init (pid 1) -- reaps whatever is orphaned to it, at once
 *	    COMMAND
 *
 * Why: a restore takes pids back, and a pid is free only when its zombie was
 * reaped; the machine's own init may take seconds. When COMMAND ends, pid 1
 * ends, and the kernel ends everything that was left in the namespace: so
 * nothing outlives a test run. In the network there is lo alone: every port is
 * free. Stray descriptors above 2 are closed first, since tasks that inherit
 * them could not be dumped.
 *
 * Exit status: that of COMMAND, 128 + N when signal N ended it, 125 when the
 * namespace could not be made, 127 when COMMAND could not be run.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_SETUP = 125, EXIT_EXEC = 127 };

static void die(const char *what)
{
	fprintf(stderr, "init: %s: %s\n", what, strerror(errno));
	exit(EXIT_SETUP);
}

static int status_of(int wstatus)
{
	return WIFEXITED(wstatus) ? WEXITSTATUS(wstatus) : 128 + WTERMSIG(wstatus);
}

static pid_t run(char **argv)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	execvp(argv[0], argv);
	fprintf(stderr, "init: %s: %s\n", argv[0], strerror(errno));
	_exit(EXIT_EXEC);
}

/* Many pids, so that numbers don't come round within a run. Per namespace since Linux 6.14, refused or shared before. */
static void raise_pid_max(void)
{
	static const char most[] = "4194304";
	int fd = open("/proc/sys/kernel/pid_max", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, most, sizeof(most) - 1) < 0)
		fprintf(stderr, "init: pid_max stays: %s\n", strerror(errno));
	close(fd);
}

static void raise_loopback(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0)
		die("bring lo up");
	close(fd);
}

/* In a plain chroot "/" is no mount, which nothing can be told of: a copy of it becomes one, laid on /proc, which is. */
static void mount_root(void)
{
	char *cwd = getcwd(NULL, 0);
	int root = open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);

	if (!cwd || root < 0 || mount(NULL, "/proc", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    move_mount(root, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) < 0 || chroot("/proc") < 0 || chdir(cwd) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		die("make mounts private");
	close(root);
	free(cwd);
}

static int be_init(char **argv, bool own_network)
{
	pid_t command, pid;
	int wstatus;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		mount_root();
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		die("mount /proc");
	raise_pid_max();
	if (own_network)
		raise_loopback();
	command = run(argv);
	if (command < 0)
		die("fork");
	while ((pid = wait(&wstatus)) > 0 || errno == EINTR)
		if (pid == command)
			return status_of(wstatus);
	die("wait");
	return EXIT_SETUP;
}

int main(int argc, char **argv)
{
	bool own_network = argc < 2 || strcmp(argv[1], "-n") != 0;
	int wstatus;
	pid_t pid;

	argc -= !own_network;
	argv += !own_network;
	if (argc < 2) {
		fprintf(stderr, "usage: init [-n] COMMAND ARGS...\n");
		return EXIT_SETUP;
	}
	close_range(3, ~0U, 0);
	if (unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | (own_network ? CLONE_NEWNET : 0)) < 0)
		die("unshare (are you root?)");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0)
		return be_init(argv + 1, own_network);
	signal(SIGINT, SIG_IGN);	/* the command gets it too, and decides */
	while (waitpid(pid, &wstatus, 0) < 0)
		if (errno != EINTR)
			die("wait");
	return status_of(wstatus);
}
