/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process sees in its windows, page by page, as a file:
 *
 *	struct head	then for each region a struct region and its pages, a struct seen each
 *
 * Regions are the windows, the memfds (by their descriptors), and frames of
 * stacks. Looking must leave no trace for a tracker, nor fill a hole: a page
 * that the page tables don't have is not touched, but is zero, or read from
 * the file that is mapped there. The layout is known to mutator.py.
 */
#include "mutator.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

struct head {
	uint64_t number, seed;
	uint32_t pid, id, regions, steps;
};

struct region {
	char name[16];
	uint64_t base, pages;
};

struct seen {
	uint64_t hash;		/* 0: nothing is mapped */
	uint32_t step;
	uint8_t rights, kind;	/* rights: READ.. below, as the kernel tells */
	uint8_t ops[OPS_KEPT];
	uint8_t unused[4];
};
_Static_assert(sizeof(struct seen) == 24, "as mutator.py reads it");

enum { READ = 1, WRITE = 2, EXEC = 4 /* never wanted */, SHARED = 8 };

struct mapping {
	uintptr_t begin, end, offset;
	int rights;
	bool has_file;
};

static struct {
	const struct process *process;
	int out, maps, pagemap, mem;
	uint8_t out_buffer[1 << 16], maps_buffer[1 << 12];
	size_t out_len, maps_len, maps_at;
	uint64_t zero_hash;
	bool swaps;
} d;

/* ---- out ---- */

static void flush(void)
{
	board_check(d.process->board, write(d.out, d.out_buffer, d.out_len) == (ssize_t)d.out_len);
	d.out_len = 0;
}

static void put(const void *what, size_t len)
{
	if (d.out_len + len > sizeof(d.out_buffer))
		flush();
	memcpy(d.out_buffer + d.out_len, what, len);
	d.out_len += len;
}

static void put_region(const char *name, const void *base, uint32_t pages)
{
	struct region r = { .base = (uintptr_t)base, .pages = pages };

	strcpy(r.name, name);
	put(&r, sizeof(r));
}

/* Four lanes, so that they run side by side. */
static uint64_t hash_page(const void *at)
{
	const uint64_t *word = at;
	uint64_t lane[4] = { 1, 2, 3, 4 };

	for (int i = 0; i < PAGE / 8; i += 4)
		for (int j = 0; j < 4; j++)
			lane[j] = (lane[j] ^ word[i + j]) * 0x9e3779b97f4a7c15 + (lane[j] >> 29);
	return mix(lane[0] ^ mix(lane[1] ^ mix(lane[2] ^ mix(lane[3])))) | 1;
}

/* ---- /proc/self/maps ---- */

static int next_char(void)
{
	if (d.maps_at == d.maps_len) {
		ssize_t n = read(d.maps, d.maps_buffer, sizeof(d.maps_buffer));

		d.maps_at = 0;
		d.maps_len = n > 0 ? n : 0;
		if (n <= 0)
			return -1;
	}
	return d.maps_buffer[d.maps_at++];
}

static bool next_mapping(struct mapping *m)
{
	char line[200], rights[5] = "";
	unsigned long inode;
	size_t len = 0;
	int c;

	while ((c = next_char()) >= 0 && c != '\n')
		if (len < sizeof(line) - 1)
			line[len++] = c;
	line[len] = 0;
	if (sscanf(line, "%lx-%lx %4s %lx %*s %lu", &m->begin, &m->end, rights, &m->offset, &inode) != 5)
		return false;
	m->rights = (rights[0] == 'r') * READ | (rights[1] == 'w') * WRITE | (rights[2] == 'x') * EXEC | (rights[3] == 's') * SHARED;
	m->has_file = inode != 0 || m->rights & SHARED;
	return true;
}

/* ---- pages ---- */

static bool is_there(uint64_t entry)
{
	const bool present = entry >> 63, swapped = entry >> 62 & 1, watched = entry >> 57 & 1;

	return present || (swapped && !(watched && !d.swaps));	/* the tracker's mark where nothing is looks like swap */
}

static uint64_t hash_from(int fd, uint64_t at)
{
	uint64_t page[PAGE / 8] = { 0 };

	board_check(d.process->board, pread(fd, page, PAGE, (off_t)at) == PAGE);
	return hash_page(page);
}

/*
 * What is in the page that the page tables have, which is what a dump takes. A processor that still sees another one there, and so
 * is told nothing of writes by other threads, is not the tool's doing (seen in a guest whose hypervisor keeps the page tables): it is
 * told of, and does not count.
 */
static uint64_t see_there(const struct mapping *m, uintptr_t at)
{
	const uint64_t here = m->rights & READ ? hash_page((const void *)at) : 0, there = hash_from(d.mem, at);

	if (here && here != there) {
		dprintf(2, "stale: process %d sees %#lx at %#lx, and the page tables have %#lx\n", d.process->id, here, at, there);
		d.process->board[BOARD_STALE]++;
	}
	return there;
}

static uint64_t see_page(const struct mapping *m, uintptr_t at, uint64_t entry, int file)
{
	if (is_there(entry))
		return see_there(m, at);
	return m->has_file ? hash_from(file, at - m->begin + m->offset) : d.zero_hash;
}

static int rights_wanted(const struct page *page)
{
	const int shared = page->kind >= SHARED_FILE && page->kind <= SHARED_ANON ? SHARED : 0;

	if (page->kind == FREE || page->kind == BEYOND)
		return -1;
	return (page->prot & PROT_READ ? READ : 0) | (page->prot & PROT_WRITE ? WRITE : 0) | shared;
}

static void put_page(const struct window *w, uint32_t i, uint64_t hash, int rights)
{
	const struct page *page = &w->page[i];
	struct seen seen = { .hash = hash, .step = page->step, .rights = rights, .kind = page->kind };

	if (rights_wanted(page) != rights) {
		dprintf(2, "process %d, %s page %u, kind %d: rights are %d, wanted %d\n", d.process->id, w->name, i, page->kind, rights,
			rights_wanted(page));
		d.process->board[BOARD_WRONG]++;
	}
	memcpy(seen.ops, page->ops, OPS_KEPT);
	put(&seen, sizeof(seen));
}

static int open_mapped(const struct mapping *m)
{
	char path[80];
	int fd;

	if (!m->has_file)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", m->begin, m->end);
	fd = open(path, O_RDONLY);
	board_check(d.process->board, fd >= 0);
	return fd;
}

static uint32_t put_mapping(const struct window *w, uint32_t from, uint32_t to, const struct mapping *m)
{
	const int file = open_mapped(m);
	uint64_t entries[256];

	for (uint32_t i = from; i < to; i += 256) {
		const uint32_t n = to - i < 256 ? to - i : 256;
		const uintptr_t at = (uintptr_t)w->base + (uintptr_t)i * PAGE;

		board_check(d.process->board, pread(d.pagemap, entries, n * 8, at / PAGE * 8) == n * 8);
		for (uint32_t j = 0; j < n; j++)
			put_page(w, i + j, see_page(m, at + j * PAGE, entries[j], file), m->rights);
	}
	if (file >= 0)
		close(file);
	return to;
}

static uint32_t put_nothing(const struct window *w, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++)
		put_page(w, i, 0, -1);
	return to;
}

static void put_window(const struct window *w)
{
	const uintptr_t begin = (uintptr_t)w->base, end = begin + (uintptr_t)w->pages * PAGE;
	struct mapping m;
	uint32_t at = 0;

	put_region(w->name, w->base, w->pages);
	lseek(d.maps, 0, SEEK_SET);
	d.maps_at = d.maps_len = 0;
	while (next_mapping(&m)) {
		const uintptr_t from = m.begin > begin ? m.begin : begin, to = m.end < end ? m.end : end;

		if (from >= to)
			continue;
		at = put_nothing(w, at, (from - begin) / PAGE);
		at = put_mapping(w, at, (to - begin) / PAGE, &m);
	}
	put_nothing(w, at, w->pages);
}

/* ---- what is not in windows ---- */

static void put_memfd(int fd)
{
	put_region("memfd", NULL, FILE_PAGES);
	for (uint32_t i = 0; i < FILE_PAGES; i++) {
		const struct seen seen = { .hash = hash_from(fd, (uint64_t)i * PAGE) };

		put(&seen, sizeof(seen));
	}
}

static void put_frame(const struct frame *f)
{
	put_region("stack", f->at, f->pages);
	for (uint32_t i = 0; i < f->pages; i++) {
		const struct seen seen = { .hash = hash_page(f->at + i * PAGE) };

		put(&seen, sizeof(seen));
	}
}

static void put_all(const struct process *p, uint64_t number)
{
	struct head head = { number, p->seed, getpid(), p->id, WINDOWS + MEMFDS };

	for (int i = 0; i < WORKERS; i++) {
		head.regions += p->worker[i].frame_count;
		head.steps += p->worker[i].step;
	}
	put(&head, sizeof(head));
	for (int i = 0; i < WINDOWS; i++)
		put_window(&p->window[i]);
	for (int i = 0; i < MEMFDS; i++)
		put_memfd(p->fd[FD_MEMFD + i]);
	for (int i = 0; i < WORKERS; i++)
		for (int j = 0; j < p->worker[i].frame_count; j++)
			put_frame(&p->worker[i].frames[j]);
	flush();
}

void digest_write(const struct process *p, uint64_t number)
{
	static const uint64_t zero[PAGE / 8];
	struct sysinfo info;
	char path[40];

	snprintf(path, sizeof(path), "truth.%d.%lu", p->id, number);
	d.process = p;
	d.zero_hash = hash_page(zero);
	d.swaps = sysinfo(&info) == 0 && info.totalswap > 0;
	d.out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	d.maps = open("/proc/self/maps", O_RDONLY);
	d.pagemap = open("/proc/self/pagemap", O_RDONLY);
	d.mem = open("/proc/self/mem", O_RDONLY);
	put_all(p, number);
	close(d.mem);
	close(d.pagemap);
	close(d.maps);
	close(d.out);
}
