/* SPDX-License-Identifier: Apache-2.0 */
#include <ftw.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "box.h"

int box_setup(void **state)
{
	struct box *b = mem_new(sizeof(*b));

	snprintf(b->dir, sizeof(b->dir), "%s/ferry-box-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(b->dir));
	*state = b;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

int box_teardown(void **state)
{
	struct box *b = *state;

	nftw(b->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(b);
	return 0;
}

struct store *box_create(struct box *b, const char *name)
{
	own_free char *path = mem_fmt("%s/%s", b->dir, name);
	struct store *store;

	OK(&b->err, store_create_dir(path, &store, &b->err));
	return store;
}

struct store *box_open(struct box *b, const char *name)
{
	own_free char *path = mem_fmt("%s/%s", b->dir, name);
	struct store *store;

	OK(&b->err, store_open_dir(path, &store, &b->err));
	return store;
}

void box_parent(struct box *b, const char *name, const char *target)
{
	own_free char *path = mem_fmt("%s/%s/parent", b->dir, name);

	unlink(path);
	assert_int_equal(symlink(target, path), 0);
}

void box_page(uint32_t pages_id, uint64_t index, uint8_t ret_page[static 4096])
{
	uint64_t words[512];

	for (size_t i = 0; i < 512; i++)
		words[i] = (uint64_t)pages_id << 48 | index << 12 | i;
	memcpy(ret_page, words, sizeof(words));
}

void box_pages(struct box *b, struct store *store, uint32_t pages_id, uint64_t count, size_t more)
{
	uint8_t page[4096];
	own_fd fd = -1;

	OK(&b->err, store_create_file(store, IMAGE_PAGES, pages_id, &fd, &b->err));
	for (uint64_t i = 0; i <= count; i++) {
		size_t len = i < count ? sizeof(page) : more;

		box_page(pages_id, i, page);
		assert_int_equal(write(fd, page, len), len);
	}
}

void box_pagemap(struct box *b, struct store *store, uint64_t id, uint32_t pages_id, const PagemapEntry *entries,
		 size_t count)
{
	own_writer *w = NULL;
	PagemapHead head = PAGEMAP_HEAD__INIT;

	head.pages_id = pages_id;
	OK(&b->err, image_create(store, IMAGE_PAGEMAP, id, &w, &b->err));
	OK(&b->err, image_put(w, &head.base, &b->err));
	for (size_t i = 0; i < count; i++)
		OK(&b->err, image_put(w, &entries[i].base, &b->err));
	OK(&b->err, image_finish(&w, &b->err));
}
