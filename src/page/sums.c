/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>    /* XXH3_64bits() takes what this CPU has: 48 GB/s with AVX-512, 14 with SSE2 alone */
#endif

#include "base/mem.h"
#include "base/own.h"
#include "image/messages.h"
#include "page/page.h"
#include "page/sums.h"

#define BLOCK       8192u       /* sums: of 32 MiB */
#define LIST        16u         /* blocks, at first */
#define FEW         1024u       /* sums: 8 KiB, of 4 MiB */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the image has them as they are in memory");

static uint64_t sum_of(const void *page)
{
	return XXH3_64bits(page, PAGE_BYTES);
}

/* ---- writing ---- */

struct page_sum_block {
	uint32_t set;                   /* how many are; atomic */
	uint64_t sums[BLOCK];
};

static void add_block(struct page_sum_list *list)
{
	if (list->next == list->cap) {
		struct page_sum_block **more = mem_new((list->cap ? list->cap * 2 : LIST) * sizeof(*more));

		if (list->next > 0)
			memcpy(more, list->blocks, list->next * sizeof(*more));
		list->old[list->olds++] = list->blocks;
		list->cap = list->cap ? list->cap * 2 : LIST;
		__atomic_store_n(&list->blocks, more, __ATOMIC_RELEASE);
	}
	list->blocks[list->next++] = mem_new(sizeof(**list->blocks));
}

static bool put_aside(struct page_sum_list *list, const uint64_t *sums)
{
	const size_t len = BLOCK * sizeof(*sums);

	if (list->spill_fd == 0 && !list->stays)
		list->spill_fd = open(P_tmpdir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (list->spill_fd <= 0) {
		list->spill_fd = 0;
		list->stays = true;
		return false;
	}
	return pwrite(list->spill_fd, sums, len, (off_t)(list->spilled * len)) == (ssize_t)len;
}

/* Those that are full, in order; after a failure they stay in memory. */
static void spill(struct page_sum_list *list)
{
	while (!list->stays && list->spilled + 1 < list->next &&
	       __atomic_load_n(&list->blocks[list->spilled]->set, __ATOMIC_ACQUIRE) == BLOCK) {
		list->stays = !put_aside(list, list->blocks[list->spilled]->sums);
		if (list->stays)
			return;
		free(TAKE_PTR(list->blocks[list->spilled]));
		list->spilled++;
	}
}

void page_sums_grow(struct page_sum_list *list, uint64_t pages)
{
	while (list->next * BLOCK < pages) {
		add_block(list);
		spill(list);
	}
}

static void set(struct page_sum_list *list, uint64_t page, uint64_t sum)
{
	struct page_sum_block *block = __atomic_load_n(&list->blocks, __ATOMIC_ACQUIRE)[page / BLOCK];

	block->sums[page % BLOCK] = sum;
	__atomic_fetch_add(&block->set, 1, __ATOMIC_RELEASE);
}

void page_sums_set(struct page_sum_list *list, uint64_t first, const void *bytes, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		set(list, first + i, sum_of((const uint8_t *)bytes + i * PAGE_BYTES));
}

void page_sums_take(struct page_sum_list *list, uint64_t first, const uint64_t *sums, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		set(list, first + i, sums[i]);
}

int page_sums_write(const struct page_sum_list *list, uint64_t pages, struct store *store, uint64_t pages_id, struct err *err)
{
	PageSumsHead head = PAGE_SUMS_HEAD__INIT;
	own_writer *w = NULL;
	int r = image_create(store, IMAGE_FERRY_PAGESUMS, pages_id, &w, err);

	head.pages = pages;
	if (r == 0)
		r = image_put(w, &head.base, err);
	for (size_t i = 0; r == 0 && i * BLOCK < pages; i++) {
		uint64_t n = pages - i * BLOCK < BLOCK ? pages - i * BLOCK : BLOCK;
		own_free uint64_t *again = i < list->spilled ? mem_new(BLOCK * sizeof(uint64_t)) : NULL;

		if (again && pread(list->spill_fd, again, n * sizeof(*again), (off_t)(i * BLOCK * sizeof(*again))) !=
			     (ssize_t)(n * sizeof(*again)))
			return err_sys(err, "read checksums of pages that were put aside");
		r = image_put_raw(w, again ? again : list->blocks[i]->sums, n * sizeof(uint64_t), err);
	}
	return r < 0 ? r : image_finish(&w, err);
}

void page_sums_free(struct page_sum_list *list)
{
	for (size_t i = list->spilled; i < list->next; i++)
		free(list->blocks[i]);
	free(list->blocks);
	for (size_t i = 0; i < list->olds; i++)
		free(list->old[i]);
	if (list->spill_fd > 0)
		close(list->spill_fd);
	*list = (struct page_sum_list){ 0 };
}

/* ---- reading ---- */

static int take(struct image_reader **reader, uint64_t pages, struct page_sums *ret_sums, struct err *err)
{
	struct page_sums sums = { .pages = pages, .fd = -1, .start = image_offset(*reader) };
	int r = 0;

	if (pages <= FEW) {
		sums.few = mem_new(pages * sizeof(*sums.few));
		r = image_get_raw(*reader, sums.few, pages * sizeof(*sums.few), err);
	} else {
		sums.fd = image_detach(reader);
	}
	if (r < 0)
		page_sums_close(&sums);
	else
		*ret_sums = sums;
	return r < 0 ? r : 1;
}

int page_sums_open(const struct store *store, uint64_t pages_id, uint64_t size_bytes, struct page_sums *ret_sums, struct err *err)
{
	own_reader *reader = NULL;
	own_message PageSumsHead *head = NULL;
	int r = image_open(store, IMAGE_FERRY_PAGESUMS, pages_id, &reader, err);

	if (r <= 0)
		return r;
	r = IMAGE_GET(reader, page_sums_head, &head, err);
	if (r < 0)
		return r;
	if (r == 0)
		return err_set(err, EBADMSG, "%s: has no record", image_name_of(reader));
	if (image_left(reader) % sizeof(uint64_t) || head->pages != image_left(reader) / sizeof(uint64_t))
		return err_set(err, EBADMSG, "%s: says that it has %llu checksums, which it has not", image_name_of(reader),
			       (unsigned long long)head->pages);
	if (size_bytes % PAGE_BYTES || head->pages != size_bytes / PAGE_BYTES)
		return err_set(err, EBADMSG, "pages-%llu.img: %s than it was written (%llu bytes of %llu pages)",
			       (unsigned long long)pages_id, size_bytes / PAGE_BYTES < head->pages ? "shorter" : "longer",
			       (unsigned long long)size_bytes, (unsigned long long)head->pages);
	return take(&reader, head->pages, ret_sums, err);
}

void page_sums_close(struct page_sums *sums)
{
	free(sums->few);
	own_fd_drop(&sums->fd);
	*sums = PAGE_SUMS_NONE;
}

static int wanted_at(const struct page_sums *sums, uint64_t first, uint64_t *ret, uint64_t n, struct err *err)
{
	size_t len = n * sizeof(*ret);

	if (sums->few)
		memcpy(ret, sums->few + first, len);
	else if (pread(sums->fd, ret, len, (off_t)(sums->start + first * sizeof(*ret))) != (ssize_t)len)
		return err_set(err, EBADMSG, "the checksums of pages became fewer while they were read");
	return 0;
}

int page_sums_check(const struct page_sums *sums, uint64_t first, const void *bytes, uint64_t pages, uint64_t *ret_bad,
		    struct err *err)
{
	uint64_t wanted[PUMP_CHUNK];

	assert(first + pages <= sums->pages);
	for (uint64_t done = 0, n; done < pages; done += n) {
		int r;

		n = pages - done < PUMP_CHUNK ? pages - done : PUMP_CHUNK;
		r = wanted_at(sums, first + done, wanted, n, err);
		if (r < 0)
			return r;
		for (uint64_t i = 0; i < n; i++)
			if (wanted[i] != sum_of((const uint8_t *)bytes + (done + i) * PAGE_BYTES)) {
				*ret_bad = done + i;
				return 0;
			}
	}
	return 1;
}
