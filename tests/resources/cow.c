/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copy on write between a parent, its child and its grandchild: each page has
 * the right contents in each task, and pages that nobody wrote since the fork
 * are still one page of memory (needs root: page frame numbers). "all" adds the pages that only the parent in the middle changed, which CRIU restores as copies.
 */
#include "res.h"

#define AREA_AT ((char *)0x300000000000ul)
#define PAGES (32 << 20 >> 12)
#define GENERATIONS 3
#define STRIDE 512	/* page n * STRIDE + g * 8 + 1 is changed by generation g once its child is there */

struct kin {
	bool all;
	int generation;
	pid_t pids[GENERATIONS];
};

static bool changed_by(int generation, int page)
{
	return page % STRIDE == generation * 8 + 1;
}

static char *page_at(int page)
{
	return AREA_AT + (size_t)page * RES_PAGE;
}

static uint64_t seed_of(int generation, int page)
{
	return changed_by(generation, page) ? (100 + generation) * 100000ull + page : 7 + page;
}

static void change(int generation)
{
	for (int p = 0; p < PAGES; p++)
		if (changed_by(generation, p))
			res_fill(page_at(p), RES_PAGE, seed_of(generation, p));
}

static void contents_check(struct res *r, void *arg)
{
	struct kin *kin = arg;
	int wrong = 0;

	for (int p = 0; p < PAGES; p++)
		wrong += res_differs(page_at(p), RES_PAGE, seed_of(kin->generation, p)) >= 0;
	WANT_EQ(r, wrong, 0, "generation %d: pages with wrong contents", kin->generation);
}

static void frames_read(struct res *r, pid_t pid, uint64_t *frames)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	WANT(r, pread(fd, frames, PAGES * 8, (uintptr_t)AREA_AT / RES_PAGE * 8) == PAGES * 8, "pagemap of %d: %s", pid, strerror(errno));
	close(fd);
}

static void pair_check(struct res *r, int old, int young, uint64_t (*frames)[PAGES])
{
	const uint64_t frame_mask = (1ull << 55) - 1;
	int lost = 0, wrongly = 0;

	for (int p = 0; p < PAGES; p++) {
		bool same = (frames[old][p] & frame_mask) == (frames[young][p] & frame_mask);
		bool written = changed_by(old, p) || changed_by(young, p);

		lost += !written && !same;
		wrongly += written && same;
	}
	WANT_EQ(r, lost, 0, "generations %d and %d: pages no longer shared", old, young);
	WANT_EQ(r, wrongly, 0, "generations %d and %d: changed pages that are shared", old, young);
	WANT(r, frames[old][0] & frame_mask, "no page frame numbers: not root?");
}

static void sharing_check(struct res *r, struct kin *kin)
{
	static uint64_t frames[GENERATIONS][PAGES];

	for (int g = 0; g < GENERATIONS; g++)
		frames_read(r, kin->pids[g], frames[g]);
	pair_check(r, 0, 1, frames);
	pair_check(r, 1, 2, frames);
	if (kin->all)
		pair_check(r, 0, 2, frames);
}

/* Parent of the next generation; every task changes its pages after its child is there. */
static void generation_run(struct res *r, struct kin *kin, int channel);

static void descend(struct res *r, struct kin *kin, int channel)
{
	pid_t pid = kin->generation + 1 < GENERATIONS ? fork() : -1;

	if (pid == 0) {
		kin->generation++;
		generation_run(r, kin, channel);
	}
	change(kin->generation);
}

static void generation_run(struct res *r, struct kin *kin, int channel)
{
	struct { int generation; pid_t pid; } me = { kin->generation, getpid() };

	descend(r, kin, channel);
	MUST(r, write(channel, &me, sizeof(me)) == sizeof(me));
	close(channel);
	res_serve(r, contents_check, kin);
}

int main(int argc, char **argv)
{
	struct res r = res_start(argc, argv);
	struct kin kin = { .all = argc > 2 && strcmp(argv[2], "all") == 0, .pids = { getpid() } };
	int channel[2];

	MUST(&r, mmap(AREA_AT, PAGES * RES_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == AREA_AT);
	MUST(&r, madvise(AREA_AT, PAGES * RES_PAGE, MADV_NOHUGEPAGE) == 0);
	for (int p = 0; p < PAGES; p++)
		res_fill(page_at(p), RES_PAGE, 7 + p);
	MUST(&r, pipe(channel) == 0);
	descend(&r, &kin, channel[1]);
	for (int g = 1; g < GENERATIONS; g++) {
		struct { int generation; pid_t pid; } child;

		MUST(&r, read(channel[0], &child, sizeof(child)) == sizeof(child));
		kin.pids[child.generation] = child.pid;
	}
	close(channel[0]);
	close(channel[1]);
	sharing_check(&r, &kin);
	MUST(&r, r.failures == 0);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		contents_check(&r, &kin);
		for (int g = 1; g < GENERATIONS; g++)
			res_ask(&r, kin.pids[g]);
		sharing_check(&r, &kin);
		res_done(&r);
	}
}
