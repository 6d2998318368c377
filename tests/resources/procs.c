/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of /proc/PID of the program's own tasks, which are there only when the
 * task is: what many a program has open for an instant each second. Its own,
 * its child's and, in the child, its parent's; unread; directories; its memory.
 * "all" adds what not every tool can do: half read and read to the end, and a
 * directory that is the child's working directory.
 */
#include "res.h"

enum { STAT = 10, STAT_DUP, COMM_READ, MAPS, SELF_DIR, TASK_STAT, TASK_DIR, MEM, CHILD_STAT, CHILD_DIR, PARENT_STAT };
#define HEAD 6          /* bytes of the maps that are read before */

static uint64_t word = 0x1122334455667788;
static bool all;

static void put(struct res *r, int fd, int at)
{
	MUST(r, fd >= 0 && (fd == at || (dup3(fd, at, 0) == at && close(fd) == 0)));
}

static void open_at(struct res *r, int at, pid_t pid, const char *name, int flags)
{
	char path[64];

	sprintf(path, "/proc/%d/%s", pid, name);
	put(r, open(path, flags), at);
}

/* From where it stands. */
static void whose(struct res *r, int fd, pid_t pid, const char *what)
{
	char text[512] = "";
	ssize_t len = read(fd, text, sizeof(text) - 1);

	WANT(r, len > 0, "%s: %s", what, len < 0 ? strerror(errno) : "nothing to read");
	WANT_EQ(r, atoi(text), pid, "%s", what);
	lseek(fd, 0, SEEK_SET);
}

static void child_check(struct res *r, void *arg)
{
	char wanted[32], cwd[64] = "";
	struct stat st;

	(void)arg;
	whose(r, PARENT_STAT, getppid(), "the parent's stat");
	whose(r, STAT, getppid(), "the parent's own stat, inherited");
	sprintf(wanted, "/proc/%d", getpid());
	WANT(r, !all || (getcwd(cwd, sizeof(cwd)) && strcmp(cwd, wanted) == 0 && stat("stat", &st) == 0), "the working directory is %s", cwd);
}

static pid_t child_make(struct res *r)
{
	pid_t pid = fork();

	if (pid == 0) {
		char path[64];

		open_at(r, PARENT_STAT, getppid(), "stat", O_RDONLY);
		sprintf(path, "/proc/%d", getpid());
		MUST(r, !all || chdir(path) == 0);
		res_serve(r, child_check, NULL);
	}
	return pid;
}

static void make(struct res *r)
{
	char text[512];

	open_at(r, STAT, getpid(), "stat", O_RDONLY);
	MUST(r, dup3(STAT, STAT_DUP, O_CLOEXEC) == STAT_DUP);
	open_at(r, COMM_READ, getpid(), "comm", O_RDONLY);
	while (all && read(COMM_READ, text, sizeof(text)) > 0)
		;
	open_at(r, MAPS, getpid(), "maps", O_RDONLY);
	MUST(r, !all || read(MAPS, text, HEAD) == HEAD);
	open_at(r, SELF_DIR, getpid(), "", O_RDONLY);
	sprintf(text, "task/%d/stat", getpid());
	open_at(r, TASK_STAT, getpid(), text, O_RDONLY);
	*strrchr(text, '/') = '\0';
	open_at(r, TASK_DIR, getpid(), text, O_RDONLY);
	open_at(r, MEM, getpid(), "mem", O_RDWR);
}

static void memory_check(struct res *r)
{
	uint64_t seen = 0;

	word++;
	WANT(r, pread(MEM, &seen, sizeof(seen), (off_t)(uintptr_t)&word) == sizeof(seen) && seen == word, "reads other memory");
	seen++;
	WANT(r, pwrite(MEM, &seen, sizeof(seen), (off_t)(uintptr_t)&word) == sizeof(seen) && seen == word, "writes other memory");
}

static void check(struct res *r, pid_t child)
{
	char text[32] = "";
	struct stat st;

	whose(r, STAT, getpid(), "stat");
	WANT_EQ(r, syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, STAT, STAT_DUP), 0, "a dup is a file of its own");
	if (all) {
		WANT_EQ(r, read(COMM_READ, text, sizeof(text)), 0, "what was read to the end");
		WANT_EQ(r, lseek(MAPS, 0, SEEK_CUR), HEAD, "the offset in the maps");
	}
	WANT(r, fstatat(SELF_DIR, "stat", &st, 0) == 0, "the directory: %s", strerror(errno));
	whose(r, TASK_STAT, getpid(), "the thread's stat");
	WANT(r, fstatat(TASK_DIR, "stat", &st, 0) == 0, "the thread's directory: %s", strerror(errno));
	memory_check(r);
	whose(r, CHILD_STAT, child, "the child's stat");
	WANT(r, fstatat(CHILD_DIR, "stat", &st, 0) == 0, "the child's directory: %s", strerror(errno));
	res_ask(r, child);
}

int main(int argc, char **argv)
{
	struct res r = res_start(argc, argv);
	pid_t child;

	all = argc > 2 && strcmp(argv[2], "all") == 0;
	make(&r);
	child = child_make(&r);
	open_at(&r, CHILD_STAT, child, "stat", O_RDONLY);
	open_at(&r, CHILD_DIR, child, "", O_RDONLY);
	res_ask(&r, child);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		check(&r, child);
		res_done(&r);
	}
}
