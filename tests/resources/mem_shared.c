/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that several mappings share: what one writes the others see, before
 * and after. A family of three (parent, two children) and one task that has
 * the same pages at two places.
 */
#include <linux/magic.h>
#include <sys/vfs.h>

#include "res.h"

#define PAGES 16
#define BYTES (PAGES * RES_PAGE)
#define KIDS 2
#define SHM_NAME "shm"	/* in the working directory, a tmpfs where there is room: goes away with it */
#define UNTOUCHED 3	/* the page nobody ever touches */

enum { ANON, ZERO, SHM, SHM_GONE, SHARES };

struct world {
	char *at[SHARES];
	char *twin;	/* ANON once more, from its page 4 on */
	int self;	/* 0 parent, 1 and 2 children: each writes page 8 + self */
};

static int page_present(const void *at)
{
	uint64_t bits = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (pread(fd, &bits, 8, (uintptr_t)at / RES_PAGE * 8) != 8)
		bits = 0;
	close(fd);
	return bits >> 63;
}

static uint64_t seed_of(int share, int page)
{
	return 1000 * (share + 1) + page;
}

static uint64_t *word_of(struct world *w, int share, int writer)
{
	return (uint64_t *)(w->at[share] + (8 + writer) * RES_PAGE);
}

static char *shm_make(struct res *r, const char *name, bool keep)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);

	MUST(r, fd >= 0 && ftruncate(fd, BYTES) == 0);
	char *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MUST(r, at != MAP_FAILED);
	close(fd);
	MUST(r, keep || unlink(name) == 0);
	return at;
}

static void make(struct res *r, struct world *w)
{
	char gone[80];
	int zero = open("/dev/zero", O_RDWR);

	snprintf(gone, sizeof(gone), "/dev/shm/ferry-res-%d-%ld", getpid(), (long)time(NULL));
	w->at[ANON] = mmap(NULL, 2 * BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	w->at[ZERO] = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, zero, 0);
	MUST(r, w->at[ANON] != MAP_FAILED && w->at[ZERO] != MAP_FAILED);
	close(zero);
	memset(w->at[ANON] + BYTES, 1, BYTES);	/* pages that stay in the object, and that nobody maps any more */
	MUST(r, munmap(w->at[ANON] + BYTES, BYTES) == 0);
	w->at[SHM] = shm_make(r, SHM_NAME, true);
	w->at[SHM_GONE] = shm_make(r, gone, false);
	w->twin = mremap(w->at[ANON] + 4 * RES_PAGE, 0, 8 * RES_PAGE, MREMAP_MAYMOVE);
	MUST(r, w->twin != MAP_FAILED && w->twin != w->at[ANON] + 4 * RES_PAGE);
	for (int s = 0; s < SHARES; s++)
		for (int p = 0; p < PAGES; p++)
			if (p != UNTOUCHED)
				res_fill(w->at[s] + p * RES_PAGE, RES_PAGE, seed_of(s, p));
	/* a page that only a read made: a hole in the object, a zero page for who reads */
	MUST(r, madvise(w->at[ANON] + 5 * RES_PAGE, RES_PAGE, MADV_REMOVE) == 0 && w->at[ANON][5 * RES_PAGE] == 0);
}

/* Other file systems read ahead: a page of their files is there that nobody touched. */
static bool on_tmpfs(void)
{
	struct statfs fs;

	return statfs(SHM_NAME, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

static void contents_check(struct res *r, struct world *w)
{
	for (int s = 0; s < SHARES; s++) {
		WANT(r, !page_present(w->at[s] + UNTOUCHED * RES_PAGE) || (s == SHM && !on_tmpfs()), "share %d: untouched page is there", s);
		for (int p = 0; p < PAGES; p++) {
			const char *page = w->at[s] + p * RES_PAGE;

			if (s == ANON && p == 5)
				WANT_EQ(r, *(const uint64_t *)page, 0, "removed page holds");
			else if (p < 8 && p != UNTOUCHED)
				WANT_EQ(r, res_differs(page, RES_PAGE, seed_of(s, p)), -1, "share %d, page %d, first wrong byte", s, p);
			else if (p >= 8)	/* word 0 is written each round */
				WANT(r, ((const uint64_t *)page)[1] == res_word(seed_of(s, p), 1), "share %d, page %d is wrong", s, p);
		}
	}
}

/* Everybody wrote last round's number, and before the first round nobody anything. */
static void words_check(struct res *r, struct world *w, int writer, int round)
{
	for (int s = 0; s < SHARES; s++) {
		uint64_t wanted = round ? (uint64_t)round << 8 | writer : res_word(seed_of(s, 8 + writer), 0);

		if (round == 0 && s == SHM)	/* a real file: an earlier life may have written it */
			continue;
		WANT_EQ(r, *word_of(w, s, writer), wanted, "task %d: share %d, what task %d wrote", w->self, s, writer);
	}
}

static void child_check(struct res *r, void *arg)
{
	struct world *w = arg;

	contents_check(r, w);
	words_check(r, w, 0, r->round);
	words_check(r, w, w->self, r->round - 1);
	for (int s = 0; s < SHARES; s++)
		*word_of(w, s, w->self) = (uint64_t)r->round << 8 | w->self;
}

static pid_t child_start(struct res *r, struct world *w, int self)
{
	pid_t pid = fork();

	MUST(r, pid >= 0);
	if (pid)
		return pid;
	w->self = self;
	if (self == 2) {	/* one lives elsewhere and lacks the first pages of ANON */
		char *to = mmap(NULL, BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		MUST(r, mremap(w->at[ANON], BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
		w->at[ANON] = to;
	}
	res_serve(r, child_check, w);
}

static void parent_check(struct res *r, struct world *w, const pid_t *kids)
{
	struct stat st;
	uint64_t word = 0;

	for (int s = 0; s < SHARES; s++)
		*word_of(w, s, 0) = (uint64_t)r->round << 8;
	for (int k = 0; k < KIDS; k++)
		res_ask(r, kids[k]);
	for (int k = 0; k < KIDS; k++)
		words_check(r, w, k + 1, r->round);
	contents_check(r, w);
	WANT_EQ(r, *(uint64_t *)(w->twin + 4 * RES_PAGE), *word_of(w, ANON, 0), "second mapping, written through the first");
	int fd = open(SHM_NAME, O_RDONLY | O_CLOEXEC);
	WANT(r, fd >= 0 && pread(fd, &word, 8, 8 * RES_PAGE) == 8 && word == *word_of(w, SHM, 0),
	     "shared file: wanted %#lx, found %#lx", *word_of(w, SHM, 0), word);
	close(fd);
	WANT(r, stat(SHM_NAME, &st) == 0 && st.st_size == BYTES, "shared file: size or name gone");
}

int main(int argc, char **argv)
{
	struct res r = res_start(argc, argv);
	struct world w = { .self = 0 };
	pid_t kids[KIDS];

	make(&r, &w);
	for (int k = 0; k < KIDS; k++)
		kids[k] = child_start(&r, &w, k + 1);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		parent_check(&r, &w, kids);
		res_done(&r);
	}
}
