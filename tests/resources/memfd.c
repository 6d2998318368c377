/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memfds: descriptors, mappings and both, by two tasks; what one writes the
 * other reads, before and after. "strict": what lies behind the end of a file
 * in its last page, a seal of 6.3. "exec": the program itself lies in one.
 */
#include "res.h"

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x8U
#endif

#define ODD_BYTES 10000			/* ends within its third page */
#define BIG_BYTES (3LL << 30)		/* nearly all of it a hole */
#define LONG_NAME "long\n(deleted) \\012 name/with/everything (deleted)"

enum { PLAIN, READER, PATH, SECOND, EMPTY, BIG, SEALED, FUTURE, OWNED, UNNAMED, NOEXEC, FDS };
enum { M_SHARED, M_COPY, M_SEALED_COPY, M_SEALED_READ, M_FUTURE, M_LONELY, M_BEYOND, M_READER, M_WIDER, MAPS };

struct world {
	bool strict;
	int fd[FDS], plain_dup;
	char *at[MAPS];
	int seals[FDS];
	struct stat st[FDS];
	char link[FDS][300];
	pid_t kid;
};

static int again(struct res *r, int fd, int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int new = open(path, flags);

	MUST(r, new >= 0);
	return new;
}

static int make(struct res *r, const char *name, unsigned int flags, off_t bytes)
{
	int fd = memfd_create(name, flags);

	if (fd < 0 && errno == EINVAL)	/* before 6.3 */
		fd = memfd_create(name, flags & ~MFD_NOEXEC_SEAL);
	MUST(r, fd >= 0 && ftruncate(fd, bytes) == 0);
	return fd;
}

static char *map(struct res *r, int fd, size_t len, int prot, int flags)
{
	char *at = mmap(NULL, len, prot, flags, fd, 0);

	MUST(r, at != MAP_FAILED);
	return at;
}

static void link_of(int fd, char *buf, size_t room)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t len = readlink(path, buf, room - 1);
	buf[len < 0 ? 0 : len] = 0;
}

static void make_plain(struct res *r, struct world *w)
{
	char page[RES_PAGE];

	w->fd[PLAIN] = make(r, "plain", 0, ODD_BYTES);
	w->fd[READER] = again(r, w->fd[PLAIN], O_RDONLY);
	w->fd[PATH] = again(r, w->fd[PLAIN], w->strict ? O_PATH : O_RDONLY);
	w->fd[SECOND] = again(r, w->fd[PLAIN], O_RDWR | O_APPEND | O_NONBLOCK | O_CLOEXEC);
	w->plain_dup = dup(w->fd[PLAIN]);
	res_fill(page, RES_PAGE, 1);
	MUST(r, pwrite(w->fd[PLAIN], page, RES_PAGE, 0) == RES_PAGE);
	MUST(r, pwrite(w->fd[PLAIN], "end", 3, ODD_BYTES - 3) == 3);
	MUST(r, lseek(w->fd[PLAIN], 77, SEEK_SET) == 77 && lseek(w->fd[READER], 5000, SEEK_SET) == 5000);
	w->at[M_SHARED] = map(r, w->fd[PLAIN], 3 * RES_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	w->at[M_COPY] = map(r, w->fd[PLAIN], 3 * RES_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	w->at[M_BEYOND] = map(r, w->fd[PLAIN], 8 * RES_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	/* one that may never be written, and one that may, but is not now */
	w->at[M_READER] = map(r, w->fd[READER], RES_PAGE, PROT_READ, MAP_SHARED);
	w->at[M_WIDER] = map(r, w->fd[PLAIN], RES_PAGE, PROT_READ, MAP_SHARED);
	strcpy(w->at[M_COPY] + RES_PAGE, "own");
	if (w->strict)
		strcpy(w->at[M_SHARED] + ODD_BYTES + 100, "behind the end");
}

static void make_sealed(struct res *r, struct world *w)
{
	w->fd[SEALED] = make(r, "sealed", MFD_ALLOW_SEALING, 2 * RES_PAGE);
	MUST(r, pwrite(w->fd[SEALED], "sealed", 6, 0) == 6);
	w->at[M_SEALED_COPY] = map(r, w->fd[SEALED], 2 * RES_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	strcpy(w->at[M_SEALED_COPY] + RES_PAGE, "own");
	MUST(r, fcntl(w->fd[SEALED], F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
	int reader = again(r, w->fd[SEALED], O_RDONLY);
	w->at[M_SEALED_READ] = map(r, reader, 2 * RES_PAGE, PROT_READ, MAP_SHARED);
	close(reader);
	w->fd[FUTURE] = make(r, "future", MFD_ALLOW_SEALING | MFD_CLOEXEC, RES_PAGE);
	w->at[M_FUTURE] = map(r, w->fd[FUTURE], RES_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	MUST(r, fcntl(w->fd[FUTURE], F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_GROW) == 0);
}

static void make_all(struct res *r, struct world *w)
{
	make_plain(r, w);
	make_sealed(r, w);
	w->fd[EMPTY] = make(r, LONG_NAME, 0, 0);
	w->fd[BIG] = make(r, "big", 0, BIG_BYTES);
	MUST(r, pwrite(w->fd[BIG], "start", 5, 0) == 5 && pwrite(w->fd[BIG], "end", 3, BIG_BYTES - 3) == 3);
	w->fd[OWNED] = make(r, "owned", 0, 1);
	MUST(r, fchown(w->fd[OWNED], 33, 34) == 0 && fchmod(w->fd[OWNED], 0640) == 0);
	w->fd[UNNAMED] = make(r, "", 0, RES_PAGE);
	w->fd[NOEXEC] = make(r, "noexec", w->strict ? MFD_NOEXEC_SEAL : 0, RES_PAGE);
	int lonely = make(r, "lonely", 0, 2 * RES_PAGE);
	w->at[M_LONELY] = map(r, lonely, 2 * RES_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	res_fill(w->at[M_LONELY], RES_PAGE, 2);
	close(lonely);
	for (int i = 0; i < FDS; i++) {
		w->seals[i] = fcntl(w->fd[i], F_GET_SEALS);
		MUST(r, fstat(w->fd[i], &w->st[i]) == 0);
		link_of(w->fd[i], w->link[i], sizeof(w->link[i]));
	}
}

static void objects_check(struct res *r, struct world *w)
{
	struct stat st;
	char link[300];

	for (int i = 0; i < FDS; i++) {
		WANT_EQ(r, fcntl(w->fd[i], F_GET_SEALS), w->seals[i], "memfd %d: seals", i);
		if (fstat(w->fd[i], &st) < 0)
			res_fail(r, "memfd %d: %s", i, strerror(errno));
		WANT_EQ(r, st.st_size, w->st[i].st_size, "memfd %d: size", i);
		WANT_EQ(r, st.st_mode, w->st[i].st_mode, "memfd %d: mode", i);
		WANT_EQ(r, st.st_uid, w->st[i].st_uid, "memfd %d: user", i);
		WANT_EQ(r, st.st_gid, w->st[i].st_gid, "memfd %d: group", i);
		link_of(w->fd[i], link, sizeof(link));
		WANT(r, strcmp(link, w->link[i]) == 0, "memfd %d: wanted %s, found %s", i, w->link[i], link);
	}
	fstat(w->fd[BIG], &st);
	WANT(r, st.st_blocks < 1024, "the big one has %lld blocks: its hole was filled", (long long)st.st_blocks);
}

static void descriptors_check(struct res *r, struct world *w)
{
	struct stat one, other;

	for (int i = READER; i <= SECOND; i++) {
		fstat(w->fd[PLAIN], &one);
		fstat(w->fd[i], &other);
		WANT_EQ(r, other.st_ino, one.st_ino, "memfd %d: inode", i);
	}
	WANT_EQ(r, lseek(w->fd[READER], 0, SEEK_CUR), 5000, "place of the reader");
	WANT_EQ(r, lseek(w->fd[PLAIN], 0, SEEK_CUR), 77 + 2 * (r->round - 1), "place that two tasks share");
	WANT_EQ(r, lseek(w->plain_dup, 1, SEEK_CUR), 78 + 2 * (r->round - 1), "place of the copy");
	WANT_EQ(r, lseek(w->fd[PLAIN], 0, SEEK_CUR), 78 + 2 * (r->round - 1), "place moved through the copy");
	WANT_EQ(r, fcntl(w->fd[READER], F_GETFL) & O_ACCMODE, O_RDONLY, "rights of the reader");
	WANT_EQ(r, fcntl(w->fd[PLAIN], F_GETFL) & O_ACCMODE, O_RDWR, "rights");
	WANT_EQ(r, fcntl(w->fd[PATH], F_GETFL) & O_PATH, w->strict ? O_PATH : 0, "path only");
	WANT_EQ(r, fcntl(w->fd[SECOND], F_GETFL) & (O_APPEND | O_NONBLOCK), O_APPEND | O_NONBLOCK, "flags");
	WANT_EQ(r, fcntl(w->fd[SECOND], F_GETFD), FD_CLOEXEC, "closed on exec");
	WANT_EQ(r, fcntl(w->fd[PLAIN], F_GETFD), 0, "not closed on exec");
}

static void contents_check(struct res *r, struct world *w)
{
	char page[RES_PAGE], word[6] = "";

	WANT(r, pread(w->fd[READER], page, RES_PAGE, 0) == RES_PAGE, "the first page can't be read");
	WANT_EQ(r, res_differs(page, RES_PAGE, 1), -1, "first page, first wrong byte");
	WANT(r, pread(w->fd[PLAIN], word, 3, ODD_BYTES - 3) == 3 && memcmp(word, "end", 3) == 0, "the end is '%.3s'", word);
	WANT(r, pread(w->fd[BIG], word, 5, 0) == 5 && memcmp(word, "start", 5) == 0, "the big one begins '%.5s'", word);
	WANT(r, pread(w->fd[BIG], word, 3, BIG_BYTES - 3) == 3 && memcmp(word, "end", 3) == 0, "the big one ends '%.3s'", word);
	WANT(r, strcmp(w->at[M_COPY] + RES_PAGE, "own") == 0, "the private page is '%.8s'", w->at[M_COPY] + RES_PAGE);
	WANT(r, memcmp(w->at[M_COPY] + ODD_BYTES - 3, "end", 3) == 0, "a private mapping does not show the file");
	WANT_EQ(r, res_differs(w->at[M_LONELY], RES_PAGE, 2), -1, "memory without a descriptor, first wrong byte");
	if (w->strict)
		WANT(r, strcmp(w->at[M_SHARED] + ODD_BYTES + 100, "behind the end") == 0, "behind the end is '%.20s'",
		     w->at[M_SHARED] + ODD_BYTES + 100);
}

static void sealed_check(struct res *r, struct world *w)
{
	WANT(r, strcmp(w->at[M_SEALED_READ], "sealed") == 0, "sealed memory is '%.8s'", w->at[M_SEALED_READ]);
	WANT(r, strcmp(w->at[M_SEALED_COPY], "sealed") == 0, "its private mapping is '%.8s'", w->at[M_SEALED_COPY]);
	WANT(r, strcmp(w->at[M_SEALED_COPY] + RES_PAGE, "own") == 0, "its private page is '%.8s'", w->at[M_SEALED_COPY] + RES_PAGE);
	WANT(r, pwrite(w->fd[SEALED], "x", 1, 0) < 0 && errno == EPERM, "sealed memory can be written");
	WANT(r, mprotect(w->at[M_SEALED_READ], RES_PAGE, PROT_READ | PROT_WRITE) < 0, "its shared mapping can become writable");
	WANT(r, mmap(NULL, RES_PAGE, PROT_WRITE, MAP_SHARED, w->fd[FUTURE], 0) == MAP_FAILED, "a new writable mapping can be made");
	WANT(r, pwrite(w->fd[FUTURE], "x", 1, 0) < 0 && errno == EPERM, "what is sealed for the future can be written");
	WANT(r, mprotect(w->at[M_READER], RES_PAGE, PROT_READ | PROT_WRITE) < 0, "the reader's mapping can become writable");
	WANT(r, mprotect(w->at[M_WIDER], RES_PAGE, PROT_READ | PROT_WRITE) == 0, "a mapping can't become writable");
	w->at[M_WIDER][8 * 8] = w->at[M_WIDER][8 * 8];
	mprotect(w->at[M_WIDER], RES_PAGE, PROT_READ);
}

/* The file grows: the mapping behind its end shows that; then it is as long as before. */
static void beyond_check(struct res *r, struct world *w)
{
	if (w->strict)
		return;
	WANT(r, pwrite(w->fd[PLAIN], "more", 4, 6 * RES_PAGE) == 4 && memcmp(w->at[M_BEYOND] + 6 * RES_PAGE, "more", 4) == 0,
	     "a mapping behind the end does not show what is written there");
	WANT(r, ftruncate(w->fd[PLAIN], ODD_BYTES) == 0, "can't be cut");
}

/* The word of writer 0 (parent) or 1 (child) in each shared mapping. */
static uint64_t *word_of(struct world *w, int map, int writer)
{
	return (uint64_t *)(w->at[map] + (map == M_FUTURE ? 0 : RES_PAGE)) + writer;
}

static void words_check(struct res *r, struct world *w, int writer, int round)
{
	static const int maps[] = { M_SHARED, M_FUTURE, M_LONELY };

	for (int i = 0; i < 3; i++)
		WANT_EQ(r, *word_of(w, maps[i], writer), round ? round << 8 | writer : 0, "mapping %d, what task %d wrote", maps[i],
			writer);
}

static void words_write(struct res *r, struct world *w, int writer)
{
	static const int maps[] = { M_SHARED, M_FUTURE, M_LONELY };

	for (int i = 0; i < 3; i++)
		*word_of(w, maps[i], writer) = (uint64_t)r->round << 8 | writer;
}

static void child_check(struct res *r, void *arg)
{
	struct world *w = arg;

	words_check(r, w, 0, r->round);
	words_check(r, w, 1, r->round - 1);
	words_write(r, w, 1);
	contents_check(r, w);
	WANT_EQ(r, lseek(w->fd[PLAIN], 1, SEEK_CUR), 79 + 2 * (r->round - 1), "place that the parent moved");
}

/* Once more, as the program in a memfd. */
static void become_memfd(struct res *r, char **argv)
{
	char buf[65536];
	int from = open("/proc/self/exe", O_RDONLY), to = memfd_create("program", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ssize_t n;

	MUST(r, from >= 0 && to >= 0);
	while ((n = read(from, buf, sizeof(buf))) > 0)
		MUST(r, write(to, buf, n) == n);
	MUST(r, fcntl(to, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) == 0);
	int reader = again(r, to, O_RDONLY | O_CLOEXEC);
	close(to);
	fexecve(reader, argv, (char *[]){ "IN_MEMFD=1", NULL });
	MUST(r, !"fexecve");
}

static void exe_check(struct res *r)
{
	char link[100] = "";
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	WANT(r, readlink("/proc/self/exe", link, sizeof(link) - 1) > 0 && strcmp(link, "/memfd:program (deleted)") == 0,
	     "the program is %s", link);
	WANT_EQ(r, fcntl(fd, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW, "the seals of the program");
	close(fd);
}

int main(int argc, char **argv)
{
	struct res r = res_start(argc, argv);
	const char *how = argc > 2 ? argv[2] : "";
	struct world w = { .strict = strcmp(how, "strict") == 0 };
	bool exec = strcmp(how, "exec") == 0;

	if (exec && !getenv("IN_MEMFD"))
		become_memfd(&r, argv);
	make_all(&r, &w);
	w.kid = fork();
	MUST(&r, w.kid >= 0);
	if (w.kid == 0)
		res_serve(&r, child_check, &w);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		objects_check(&r, &w);
		descriptors_check(&r, &w);
		words_write(&r, &w, 0);
		res_ask(&r, w.kid);
		words_check(&r, &w, 1, r.round);
		contents_check(&r, &w);
		sealed_check(&r, &w);
		beyond_check(&r, &w);
		if (exec)
			exe_check(&r);
		res_done(&r);
	}
}
