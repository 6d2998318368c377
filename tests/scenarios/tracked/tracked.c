/* SPDX-License-Identifier: Apache-2.0 */
#include "tracked.h"

#include <time.h>

board_slot *board;
const char *disk_file;
uint64_t stage;

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 300000 }, NULL);
}

void wait_stage(uint64_t n)
{
	while (atomic_load(&board[GO]) < n)
		nap();
}

void next(void)
{
	atomic_store(&board[DONE], ++stage);
	wait_stage(stage);
}

void skip(const char *why)
{
	dprintf(1, "%s: %s\n", why, strerror(errno));
	atomic_store(&board[SKIP], 1);
	for (;;)
		pause();
}

char *anon_at(void *at, size_t pages)
{
	char *mem = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	CHECK(mem != MAP_FAILED);
	return mem;
}

char *anon(size_t pages)
{
	return anon_at(NULL, pages);
}

static uint64_t word_of(size_t index, uint64_t gen)
{
	return gen ? (index + 1) * 0x9e3779b97f4a7c15u + gen : 0;
}

void fill(char *mem, size_t from, size_t to, uint64_t gen)
{
	for (size_t i = from; i < to; i++)
		for (size_t at = 0; at < PAGE; at += 512)
			*(volatile uint64_t *)(mem + i * PAGE + at) = word_of(i, gen);
}

bool page_has(const char *page, size_t index, uint64_t gen)
{
	for (size_t at = 0; at < PAGE; at += 512)
		if (*(const volatile uint64_t *)(page + at) != word_of(index, gen))
			return false;
	return true;
}

bool has(const char *mem, size_t from, size_t to, uint64_t gen)
{
	for (size_t i = from; i < to; i++)
		if (!page_has(mem + i * PAGE, i, gen)) {
			dprintf(2, "page %zu of %p is not of generation %lu\n", i, (const void *)mem, gen);
			return false;
		}
	return true;
}

int memfd_of(size_t pages, uint64_t gen)
{
	int fd = memfd_create("tracked", MFD_CLOEXEC);
	char page[PAGE];

	memset(page, 0, sizeof(page));
	CHECK(ftruncate(fd, (off_t)(pages * PAGE)) == 0);
	for (size_t i = 0; i < pages; i++) {
		for (size_t at = 0; at < PAGE; at += 512)
			memcpy(page + at, &(uint64_t){ word_of(i, gen) }, 8);
		CHECK(pwrite(fd, page, PAGE, (off_t)(i * PAGE)) == PAGE);
	}
	return fd;
}

int main(int argc, char **argv)
{
	const struct row *const tables[] = { map_rows, share_rows, io_rows };

	if (argc > 1)
		board = board_open();
	disk_file = argc > 2 ? argv[2] : NULL;
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (const struct row *row = tables[i]; row->name; row++) {
			if (argc == 1)
				puts(row->name);
			else if (strcmp(row->name, argv[1]) == 0) {
				row->run();
				next();
			}
		}
	return 0;
}
