/* SPDX-License-Identifier: Apache-2.0 */
/* Private memory of every sort: contents, protection, flags, and what must stay untouched. "all" adds what CRIU loses. */
#include <alloca.h>
#include <sys/resource.h>

#include "res.h"

#define AREA_BASE 0x200000000000ul
#define AREA_STEP 0x1000000ul
#define STACK_BYTES (1 << 20)
#define HEAP_BYTES (16 * RES_PAGE)
#define SMAPS_ROOM (256 << 10)
#define PM_PRESENT (1ull << 63)
#define PM_SWAPPED (1ull << 62)
#define PM_FILE (1ull << 61)

/* One letter a page: x pattern, z zeros written, r only read, . never touched. */
struct area {
	const char *name, *pages;
	int prot, map_flags, advice;
	enum { PLAIN, LOCK, LOCK_ON_FAULT } lock;
};

static const struct area areas[] = {
	{ "plain", "xxxxxxxx", PROT_READ | PROT_WRITE },
	{ "holes", "x..x.zr.....xxz.x", PROT_READ | PROT_WRITE },
	{ "untouched", "................", PROT_READ | PROT_WRITE },
	{ "zeros", "zzzzrrrr", PROT_READ | PROT_WRITE },
	{ "read-only", "xx.x", PROT_READ },
	{ "none", "x.xx", PROT_NONE },
	{ "none, empty", "....", PROT_NONE },
	{ "exec", "x.x", PROT_READ | PROT_WRITE | PROT_EXEC },
	{ "noreserve", "x..x", PROT_READ | PROT_WRITE, MAP_NORESERVE },
	{ "locked", "xxxx", PROT_READ | PROT_WRITE, 0, 0, LOCK },
	{ "hugepage", "x..x", PROT_READ | PROT_WRITE, 0, MADV_HUGEPAGE },
	{ "nohugepage", "x..x", PROT_READ | PROT_WRITE, 0, MADV_NOHUGEPAGE },
	{ "dontfork", "x..x", PROT_READ | PROT_WRITE, 0, MADV_DONTFORK },
	{ "dontdump", "x..x", PROT_READ | PROT_WRITE, 0, MADV_DONTDUMP },
	{ "wipeonfork", "x..x", PROT_READ | PROT_WRITE, 0, MADV_WIPEONFORK },
	{ "mergeable", "x..x", PROT_READ | PROT_WRITE, 0, MADV_MERGEABLE },
	{ "stack flag", "x..x", PROT_READ | PROT_WRITE, MAP_STACK },
	{ "growsdown", "xxxx", PROT_READ | PROT_WRITE, MAP_GROWSDOWN },
	{ "locked on fault", "x..x", PROT_READ | PROT_WRITE, 0, 0, LOCK_ON_FAULT },	/* only with "all" */
};
#define AREAS (sizeof(areas) / sizeof(areas[0]))

struct world {
	size_t areas;
	char *stack, *heap, *heap_end;
	char *file_private, *file_shared;
	int (*patched)(void);
	char smaps_was[SMAPS_ROOM], smaps_is[SMAPS_ROOM], raw[SMAPS_ROOM];
};

/* A page of code alone, to be patched. */
__asm__(".text\n.balign 4096\npatched_code:\n\tmov $1, %eax\n\tret\n.balign 4096\n");
extern int patched_code(void);

static char *area_at(size_t i)
{
	return (char *)(AREA_BASE + i * AREA_STEP);
}

static uint64_t page_bits(const struct res *r, const void *at)
{
	uint64_t bits = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd < 0 || pread(fd, &bits, 8, (uintptr_t)at / RES_PAGE * 8) != 8)
		res_say(r, "FAIL %d: pagemap: %s", r->round, strerror(errno));
	close(fd);
	return bits;
}

static void area_make(struct res *r, size_t i)
{
	const struct area *a = &areas[i];
	size_t len = strlen(a->pages) * RES_PAGE;
	char *at = mmap(area_at(i), len, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | a->map_flags, -1, 0);

	MUST(r, at == area_at(i));
	if (a->advice && madvise(at, len, a->advice))
		MUST(r, a->advice == MADV_MERGEABLE && errno == EINVAL);
	MUST(r, a->lock != LOCK || mlock(at, len) == 0);
	MUST(r, a->lock != LOCK_ON_FAULT || mlock2(at, len, MLOCK_ONFAULT) == 0);
	for (size_t p = 0; a->pages[p]; p++) {
		volatile char *page = at + p * RES_PAGE;

		if (a->pages[p] == 'x')
			res_fill((char *)page, RES_PAGE, i * 100 + p);
		else if (a->pages[p] == 'z')
			*page = 0;
		else if (a->pages[p] == 'r')
			(void)*page;
	}
	if (a->map_flags & MAP_GROWSDOWN)
		res_fill(at - RES_PAGE, RES_PAGE, i * 100 - 1);
	MUST(r, mprotect(at, len, a->prot) == 0);
}

static void area_check(struct res *r, size_t i)
{
	const struct area *a = &areas[i];
	size_t len = strlen(a->pages) * RES_PAGE;
	char *at = area_at(i);

	/* before anything is read: reading would touch */
	for (size_t p = 0; a->pages[p]; p++)
		WANT(r, a->pages[p] != '.' || !(page_bits(r, at + p * RES_PAGE) & (PM_PRESENT | PM_SWAPPED)),
		     "%s: page %zu was never touched and is there", a->name, p);
	if (!(a->prot & PROT_READ))
		mprotect(at, len, PROT_READ);
	for (size_t p = 0; a->pages[p]; p++) {
		static const char zeros[RES_PAGE];
		char *page = at + p * RES_PAGE;

		if (a->pages[p] == 'x')
			WANT_EQ(r, res_differs(page, RES_PAGE, i * 100 + p), -1, "%s: page %zu, first wrong byte", a->name, p);
		else if (a->pages[p] != '.')
			WANT(r, memcmp(page, zeros, RES_PAGE) == 0, "%s: page %zu is not all zeros", a->name, p);
	}
	if (a->map_flags & MAP_GROWSDOWN)
		WANT_EQ(r, res_differs(at - RES_PAGE, RES_PAGE, i * 100 - 1), -1, "%s: grown page, first wrong byte", a->name);
	if (!(a->prot & PROT_READ))
		mprotect(at, len, a->prot);
}

/* Mappings and their VmFlags, one line each; the stack's growing start and the soft-dirty flag left out. */
static void smaps_digest(struct res *r, char *raw, char *out)
{
	char head[256] = "";

	MUST(r, res_read("/proc/self/smaps", raw, SMAPS_ROOM) > 0);
	for (char *line = strtok(raw, "\n"); line; line = strtok(NULL, "\n")) {
		unsigned long start, end;

		if (strncmp(line, "VmFlags:", 8) == 0) {
			char *sd = strstr(line, " sd");

			if (sd)
				memmove(sd, sd + 3, strlen(sd + 3) + 1);
			out += sprintf(out, "%s %s\n", head, line);
		} else if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
			bool stack = strstr(line, "[stack]");

			snprintf(head, sizeof(head), "%s", stack ? strchr(line, '-') : line);
		}
	}
}

static void files_make(struct res *r, struct world *w)
{
	int fd = open("mapped", O_RDWR | O_CREAT | O_TRUNC, 0644);
	static char page[RES_PAGE];

	MUST(r, fd >= 0);
	for (int p = 0; p < 8; p++) {
		res_fill(page, RES_PAGE, 5000 + p);
		MUST(r, write(fd, page, RES_PAGE) == RES_PAGE);
	}
	w->file_private = mmap(NULL, 8 * RES_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	w->file_shared = mmap(NULL, 4 * RES_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4 * RES_PAGE);
	MUST(r, w->file_private != MAP_FAILED && w->file_shared != MAP_FAILED);
	close(fd);
	res_fill(w->file_private + 2 * RES_PAGE, RES_PAGE, 6002);
	res_fill(w->file_private + 5 * RES_PAGE, RES_PAGE, 6005);
	res_fill(w->file_shared + RES_PAGE, RES_PAGE, 7001);
}

static void files_check(struct res *r, struct world *w)
{
	static const int seed[8] = { 5000, 5001, 6002, 5003, 5004, 6005, 5006, 5007 };
	int fd = open("mapped", O_RDWR | O_CLOEXEC);
	uint64_t word = r->round;

	for (int p = 0; p < 8; p++) {
		char *page = w->file_private + p * RES_PAGE;

		WANT_EQ(r, res_differs(page, RES_PAGE, seed[p]), -1, "private file page %d, first wrong byte", p);
		WANT_EQ(r, !!(page_bits(r, page) & PM_FILE), seed[p] < 6000, "private file page %d: is the file's own", p);
	}
	WANT_EQ(r, res_differs(w->file_shared + RES_PAGE, RES_PAGE, 7001), -1, "shared file page, first wrong byte");
	memcpy(w->file_shared + 3 * RES_PAGE, &word, 8);
	WANT(r, pread(fd, &word, 8, 7 * RES_PAGE) == 8 && word == r->round, "write through shared mapping is not in the file");
	word = res_word(5007, 0);
	WANT(r, pwrite(fd, &word, 8, 7 * RES_PAGE) == 8 && *(uint64_t *)(w->file_shared + 3 * RES_PAGE) == word,
	     "write to the file is not in the shared mapping");
	close(fd);
}

static void text_patch(struct res *r, struct world *w)
{
	w->patched = patched_code;
	MUST(r, patched_code() == 1);
	MUST(r, mprotect((void *)patched_code, RES_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
	((volatile char *)patched_code)[1] = 2;
	MUST(r, mprotect((void *)patched_code, RES_PAGE, PROT_READ | PROT_EXEC) == 0);
}

/* Needs 256 KiB more stack than there ever was, and gives none of it back. */
static int __attribute__((noinline)) deeper(int pages)
{
	volatile char frame[RES_PAGE];

	frame[0] = pages;
	return pages == 0 ? 0 : deeper(pages - 1) + (frame[0] == (char)pages ? 0 : 1);
}

static void check(struct res *r, struct world *w)
{
	smaps_digest(r, w->raw, w->smaps_is);
	res_same_text(r, "mapping", w->smaps_was, w->smaps_is);
	for (size_t i = 0; i < w->areas; i++)
		area_check(r, i);
	files_check(r, w);
	WANT_EQ(r, w->patched(), 2, "patched code returns");
	WANT_EQ(r, res_differs(w->stack, STACK_BYTES, 8000), -1, "main stack, first wrong byte");
	WANT_EQ(r, deeper(64 * r->round), 0, "stack grown deeper holds");
	WANT_EQ(r, res_differs(w->heap, HEAP_BYTES, 9000), -1, "heap, first wrong byte");
	WANT_EQ(r, (long)sbrk(0), (long)w->heap_end, "brk");
	WANT(r, sbrk(RES_PAGE) == w->heap_end, "heap does not grow");
	*w->heap_end = 1;
	WANT(r, sbrk(-RES_PAGE) == w->heap_end + RES_PAGE, "heap does not shrink");
}

int main(int argc, char **argv)
{
	static struct world w;
	struct res r = res_start(argc, argv);

	w.areas = argc > 2 && strcmp(argv[2], "all") == 0 ? AREAS : AREAS - 1;
	for (size_t i = 0; i < w.areas; i++)
		area_make(&r, i);
	files_make(&r, &w);
	text_patch(&r, &w);
	w.stack = alloca(STACK_BYTES);
	res_fill(w.stack, STACK_BYTES, 8000);
	w.heap = sbrk(HEAP_BYTES);
	MUST(&r, w.heap != (void *)-1);
	res_fill(w.heap, HEAP_BYTES, 9000);
	w.heap_end = sbrk(0);
	smaps_digest(&r, w.raw, w.smaps_is);	/* once for the pages it touches, once to keep */
	smaps_digest(&r, w.raw, w.smaps_was);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		check(&r, &w);
		res_done(&r);
	}
}
