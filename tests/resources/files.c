/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files that have, or had, a place in a file system: offsets, flags,
 * owners, who shares what, contents of unlinked ones. All descriptors have
 * fixed numbers, and a list of them as text is compared in each round.
 * Arguments add what not every tool can do: "linked" (unlinked, but another
 * name is left), "rmdir" (a removed directory, as descriptor and as working
 * directory), "table" (a child that shares the whole descriptor table), "strict" (the
 * O_DIRECTORY flag, and the descriptor's number in the signals of O_ASYNC).
 */
#include <linux/kcmp.h>
#include <sched.h>

#include "res.h"

enum {
	REG = 10, REG_DUP, REG_AGAIN, APPEND, READ_ONLY, MOVED, BEYOND, GHOST, GHOST_AGAIN, GHOST_SPARSE, DIR_FD, PATH_FILE, PATH_DIR,
	NUL, ZERO, RANDOM, FULL, OWNED, ASYNC_IN, ASYNC_OUT, LINKED, GONE_DIR, HIGH = 500
};
#define FILE_BYTES 10000
#define SPARSE_BYTES (4 << 20)

struct world {
	bool linked, rmdir, table, strict;
	char *ghost_shared, *ghost_private;
	pid_t child, table_child;
	char was[16384], is[16384];
};

static void put(struct res *r, int fd, int at, int flags)
{
	MUST(r, fd >= 0 && (fd == at || (dup3(fd, at, flags) == at && close(fd) == 0)));
}

static void file_make(struct res *r, const char *name)
{
	char text[FILE_BYTES];
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0640);

	res_fill(text, sizeof(text), 1);
	MUST(r, fd >= 0 && write(fd, text, sizeof(text)) == sizeof(text));
	close(fd);
}

static void open_at(struct res *r, int at, const char *name, int flags, off_t offset)
{
	put(r, open(name, flags, 0640), at, flags & O_CLOEXEC);
	MUST(r, offset == 0 || lseek(at, offset, SEEK_SET) == offset);
}

static void ghosts_make(struct res *r, struct world *w)
{
	char link[32];

	file_make(r, "ghost");
	MUST(r, chown("ghost", 1000, 1001) == 0 && chmod("ghost", 0604) == 0);
	open_at(r, GHOST, "ghost", O_RDWR, 77);
	MUST(r, unlink("ghost") == 0);
	sprintf(link, "/proc/self/fd/%d", GHOST);
	open_at(r, GHOST_AGAIN, link, O_RDONLY, 5);
	w->ghost_shared = mmap(NULL, RES_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, GHOST, 0);
	w->ghost_private = mmap(NULL, RES_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, GHOST, 0);
	MUST(r, w->ghost_shared != MAP_FAILED && w->ghost_private != MAP_FAILED);
	open_at(r, GHOST_SPARSE, "sparse", O_RDWR | O_CREAT, 0);
	MUST(r, pwrite(GHOST_SPARSE, "x", 1, SPARSE_BYTES / 2) == 1 && ftruncate(GHOST_SPARSE, SPARSE_BYTES) == 0 && unlink("sparse") == 0);
}

static void owners_make(struct res *r)
{
	int ends[2];
	struct f_owner_ex group = { F_OWNER_PGRP, getpgrp() };

	open_at(r, OWNED, "reg", O_RDONLY, 0);
	MUST(r, fcntl(OWNED, F_SETOWN_EX, &group) == 0 && fcntl(OWNED, F_SETSIG, SIGRTMIN + 4) == 0);
	MUST(r, pipe(ends) == 0);
	put(r, ends[0], ASYNC_IN, 0);
	put(r, ends[1], ASYNC_OUT, O_CLOEXEC);
	MUST(r, fcntl(ASYNC_IN, F_SETOWN, getpid()) == 0 && fcntl(ASYNC_IN, F_SETSIG, SIGRTMIN + 5) == 0);
	MUST(r, fcntl(ASYNC_IN, F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
}

static void make(struct res *r, struct world *w)
{
	static const char *const names[] = { "reg", "app", "ro", "old", "linked" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		file_make(r, names[i]);
	mkdir("dir", 0755);
	mkdir("dir/gone", 0755);
	open_at(r, REG, "reg", O_RDWR, 1234);
	MUST(r, dup3(REG, REG_DUP, O_CLOEXEC) == REG_DUP);
	open_at(r, REG_AGAIN, "reg", O_RDWR | O_NONBLOCK, 4321);
	open_at(r, APPEND, "app", O_WRONLY | O_APPEND | O_CLOEXEC, 0);
	open_at(r, READ_ONLY, "ro", O_RDONLY | O_NOATIME | O_SYNC, 1);
	open_at(r, MOVED, "old", O_RDWR | O_DSYNC, 9999);
	MUST(r, rename("old", "dir/new") == 0);
	open_at(r, BEYOND, "reg", O_RDONLY, 1ll << 40);
	ghosts_make(r, w);
	open_at(r, DIR_FD, "dir", O_RDONLY | (w->strict ? O_DIRECTORY : 0), 0);
	open_at(r, PATH_FILE, "reg", O_PATH | O_CLOEXEC, 0);
	open_at(r, PATH_DIR, "dir", O_PATH | (w->strict ? O_DIRECTORY : 0), 0);
	open_at(r, NUL, "/dev/null", O_RDWR, 0);
	open_at(r, ZERO, "/dev/zero", O_RDONLY, 0);
	open_at(r, RANDOM, "/dev/urandom", O_RDONLY, 0);
	open_at(r, FULL, "/dev/full", O_WRONLY, 0);
	owners_make(r);
	open_at(r, HIGH, "ro", O_RDONLY, 500);
	if (w->linked) {
		MUST(r, link("linked", "dir/second") == 0);
		open_at(r, LINKED, "linked", O_RDWR, 3);
		MUST(r, unlink("linked") == 0);
	}
	if (w->rmdir) {
		open_at(r, GONE_DIR, "dir/gone", O_RDONLY, 0);
		MUST(r, chdir("dir/gone") == 0 && rmdir("../gone") == 0);
	}
}

static bool same_file(pid_t pid, int a, pid_t other, int b)
{
	return syscall(SYS_kcmp, pid, other, KCMP_FILE, a, b) == 0;
}

/* Every descriptor of this task, a line each. */
static void see(char *out)
{
	char path[64], link[512], info[1024];

	for (int fd = 0; fd <= HIGH; fd++) {
		struct f_owner_ex owner = { -1, -1 };
		struct stat st;

		if (fcntl(fd, F_GETFD) < 0)
			continue;
		fstat(fd, &st);
		sprintf(path, "/proc/self/fd/%d", fd);
		ssize_t len = readlink(path, link, sizeof(link));
		bool pipe = S_ISFIFO(st.st_mode);	/* has no name that could stay */
		sprintf(path, "/proc/self/fdinfo/%d", fd);
		res_read(path, info, sizeof(info));
		char *flags = strstr(info, "flags:"), *pos = strstr(info, "pos:");
		fcntl(fd, F_GETOWN_EX, &owner);
		out += sprintf(out, "%d: %.*s %.*s %.*s cloexec %d owner %d %d signal %d mode %o uid %d gid %d links %d size %ld\n", fd,
			       pipe ? 4 : (int)len, link, (int)strcspn(pos, "\n"), pos, (int)strcspn(flags, "\n"), flags, fcntl(fd, F_GETFD),
			       owner.type, owner.pid, fcntl(fd, F_GETSIG), st.st_mode, st.st_uid, st.st_gid, (int)st.st_nlink, (long)st.st_size);
	}
}

static void offsets_check(struct res *r)
{
	WANT(r, same_file(getpid(), REG, getpid(), REG_DUP), "a dup is a file of its own");
	WANT(r, !same_file(getpid(), REG, getpid(), REG_AGAIN), "two opens became one");
	lseek(REG, 1, SEEK_CUR);
	WANT_EQ(r, lseek(REG_DUP, 0, SEEK_CUR), 1235, "offset of the dup moves along");
	WANT_EQ(r, lseek(REG_AGAIN, 0, SEEK_CUR), 4321, "offset of the other open stays");
	lseek(REG, -1, SEEK_CUR);
}

static void ghosts_check(struct res *r, struct world *w)
{
	static char text[FILE_BYTES];
	struct stat a, b;
	char link[32], c = 0;

	WANT(r, fstat(GHOST, &a) == 0 && fstat(GHOST_AGAIN, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev, "two ghosts of one file");
	WANT_EQ(r, pread(GHOST_AGAIN, text, FILE_BYTES, 0), FILE_BYTES, "size of the ghost");
	WANT_EQ(r, res_differs(text, FILE_BYTES, 1), -1, "ghost, first wrong byte");
	WANT_EQ(r, res_differs(w->ghost_shared, RES_PAGE, 1), -1, "ghost mapping, first wrong byte");
	pwrite(GHOST, "G", 1, 0);
	WANT(r, w->ghost_shared[0] == 'G' && w->ghost_private[0] == 'G', "mapping of the ghost does not see a write to it");
	WANT(r, pread(GHOST_AGAIN, &c, 1, 0) == 1 && c == 'G', "other descriptor of the ghost does not see a write to it");
	res_fill(w->ghost_shared, 8, 1);
	WANT(r, fstat(GHOST_SPARSE, &a) == 0 && a.st_size == SPARSE_BYTES && a.st_blocks * 512 < SPARSE_BYTES / 8,
	     "sparse ghost: %ld bytes in %ld blocks", (long)a.st_size, (long)a.st_blocks);
	WANT(r, pread(GHOST_SPARSE, &c, 1, SPARSE_BYTES / 2) == 1 && c == 'x', "sparse ghost: contents");
	sprintf(link, "/proc/self/fd/%d", GHOST);
	WANT(r, access("ghost", F_OK) != 0, "ghost has a name again");
}

static void others_check(struct res *r, const struct world *w)
{
	char text[16] = "x";
	siginfo_t si;
	struct stat a, b;
	const struct timespec patience = { 10, 0 };
	sigset_t set;

	WANT(r, fstatat(DIR_FD, "new", &a, 0) == 0 && fstatat(PATH_DIR, "new", &b, 0) == 0 && a.st_ino == b.st_ino, "directory descriptors");
	WANT(r, fstatat(PATH_FILE, "", &a, AT_EMPTY_PATH) == 0 && fstat(REG, &b) == 0 && a.st_ino == b.st_ino, "O_PATH descriptor");
	WANT(r, read(NUL, text, 1) == 0 && write(NUL, "x", 1) == 1, "/dev/null");
	WANT(r, read(ZERO, text, 1) == 1 && text[0] == 0, "/dev/zero");
	WANT(r, read(RANDOM, text, 16) == 16, "/dev/urandom");
	WANT(r, write(FULL, "x", 1) == -1 && errno == ENOSPC, "/dev/full");
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	WANT(r, write(ASYNC_OUT, "x", 1) == 1, "write to the pipe: %s", strerror(errno));
	WANT_EQ(r, sigtimedwait(&set, &si, &patience), SIGRTMIN + 5, "signal of O_ASYNC");
	WANT_EQ(r, w->strict ? si.si_fd : ASYNC_IN, ASYNC_IN, "descriptor in the signal of O_ASYNC");
	WANT(r, read(ASYNC_IN, text, 1) == 1, "read from the pipe: %s", strerror(errno));
	WANT(r, read(ASYNC_IN, text, 1) == -1 && errno == EAGAIN, "O_NONBLOCK is gone");
}

static void append_check(struct res *r)
{
	struct stat st;

	lseek(APPEND, 0, SEEK_SET);
	WANT(r, write(APPEND, "tail", 4) == 4 && fstat(APPEND, &st) == 0 && st.st_size == FILE_BYTES + 4, "append went elsewhere");
	ftruncate(APPEND, FILE_BYTES);
	lseek(APPEND, 0, SEEK_SET);
}

static void linked_check(struct res *r)
{
	struct stat a, b;

	WANT(r, fstat(LINKED, &a) == 0 && stat("dir/second", &b) == 0 && a.st_ino == b.st_ino, "unlinked name, other name left: not that file");
	WANT_EQ(r, a.st_nlink, 1, "unlinked name, other name left: links");
	WANT(r, access("linked", F_OK) != 0, "unlinked name, other name left: is back");
}

/* The child has what the parent had, but REG_AGAIN closed and MOVED opened anew there. */
static void child_check(struct res *r, void *arg)
{
	const pid_t up = getppid();

	(void)arg;
	WANT(r, same_file(getpid(), REG, up, REG) && same_file(getpid(), GHOST, up, GHOST) && same_file(getpid(), HIGH, up, HIGH) &&
	     same_file(getpid(), ASYNC_IN, up, ASYNC_IN), "descriptor is no longer shared with the parent");
	WANT(r, fcntl(REG_AGAIN, F_GETFD) < 0, "closed descriptor is open");
	WANT(r, !same_file(getpid(), MOVED, up, MOVED), "own descriptor is shared");
	WANT_EQ(r, lseek(MOVED, 0, SEEK_CUR), 66, "own offset");
	lseek(REG, 1, SEEK_CUR);
}

static void table_check(struct res *r, void *arg)
{
	(void)arg;
	WANT_EQ(r, syscall(SYS_kcmp, getpid(), getppid(), KCMP_FILES, 0, 0), 0, "descriptor table is shared with the parent");
}

static int table_run(void *arg)
{
	res_serve(arg, table_check, NULL);
}

static void family_make(struct res *r, struct world *w)
{
	static char stack[65536] __attribute__((aligned(16)));

	w->child = fork();
	if (w->child == 0) {
		close(REG_AGAIN);
		close(MOVED);
		open_at(r, MOVED, w->rmdir ? "../../app" : "app", O_RDONLY, 66);
		res_serve(r, child_check, NULL);
	}
	if (w->table)
		w->table_child = clone(table_run, stack + sizeof(stack), CLONE_FILES | SIGCHLD, r);
}

static void check(struct res *r, struct world *w)
{
	see(w->is);
	res_same_text(r, "descriptor", w->was, w->is);
	offsets_check(r);
	ghosts_check(r, w);
	others_check(r, w);
	append_check(r);
	if (w->linked)
		linked_check(r);
	if (w->rmdir) {
		struct stat a, b;

		WANT(r, fstat(GONE_DIR, &a) == 0 && stat(".", &b) == 0 && a.st_ino == b.st_ino && a.st_nlink == 0, "removed directory");
	}
	res_ask(r, w->child);
	WANT_EQ(r, lseek(REG, 0, SEEK_CUR), 1235, "offset that the child moved");
	lseek(REG, 1234, SEEK_SET);
	if (w->table)
		res_ask(r, w->table_child);
}

int main(int argc, char **argv)
{
	static struct world w;
	struct res r = res_start(argc, argv);
	sigset_t async;

	for (int i = 2; i < argc; i++) {
		w.linked |= strcmp(argv[i], "linked") == 0;
		w.rmdir |= strcmp(argv[i], "rmdir") == 0;
		w.table |= strcmp(argv[i], "table") == 0;
		w.strict |= strcmp(argv[i], "strict") == 0;
	}
	sigemptyset(&async);
	sigaddset(&async, SIGRTMIN + 5);
	sigprocmask(SIG_BLOCK, &async, NULL);
	umask(0);
	make(&r, &w);
	family_make(&r, &w);
	see(w.was);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		check(&r, &w);
		res_done(&r);
	}
}
