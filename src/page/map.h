/* SPDX-License-Identifier: Apache-2.0 */
/*
 * map.h - what a pagemap image says, with every page traced to the file that has it.
 *
 * A link of a chain says of some pages that its parent directory has them; here
 * the parents are followed until each piece of the address space has a file and
 * an offset in it.  Everything is checked: rising addresses, no overlap, within
 * user space, within the pages file.
 *
 * Where pages have checksums (sums.h), what page_map_read() gives is what was
 * written; a store that is not checked has none.
 *
 * The map owns its files.  Two pieces with the same file identity and offset
 * are the same bytes: that is how pages shared by parent and child are known.
 */
#pragma once
#include <sys/types.h>

#include "base/vec.h"
#include "image/store.h"
#include "page/page.h"
#include "page/sums.h"

struct page_file {
	int fd;
	struct page_sums sums;
	uint64_t id;                    /* pages-ID.img */
	unsigned int link;              /* in the directory so many parents up */
	dev_t dev;
	ino_t ino;
	uint64_t size_bytes;
};

struct page_piece {
	taddr start;
	uint64_t pages;
	uint32_t file;                  /* index in files */
	uint64_t offset;                /* in bytes */
	/* set by who fills memory with it */
	bool fresh;                     /* nothing is there yet: a page of zeros is there already */
	bool compare;                   /* the same may be there already: see page_run */
};

struct page_map {
	VEC(struct page_file) files;
	VEC(struct page_piece) pieces;  /* rising, disjoint */
};

/* kind: IMAGE_PAGEMAP or IMAGE_PAGEMAP_SHMEM.  1: loaded; 0: there is no such image (no pages). */
int page_map_load(struct store *store, enum image_kind kind, uint64_t id, struct page_map *ret_map,
		  struct err *err);
/*
 * What a page server was sent (ends.h), it or its parents: pieces without files.  kind: IMAGE_FERRY_SENT or
 * IMAGE_FERRY_SENT_SHMEM.  1: loaded; 0: there is no such image.
 */
int page_map_load_sent(const struct store *store, enum image_kind kind, uint64_t id, struct page_map *ret_map, struct err *err);
/* Lets its files go: it can't be read any more, but tells what is where. */
void page_map_close(struct page_map *map);
void page_map_free(struct page_map *map);

/*
 * Pages of a file, as pieces and offsets in them name it.  EBADMSG, with the file and the page, where they are not what
 * was written.  By many threads.
 */
int page_map_read(const struct page_map *map, uint32_t file, uint64_t offset, uint64_t pages, void *buf, struct err *err);

/* The first piece that ends behind `at` (pieces.len: none does). */
size_t page_map_find(const struct page_map *map, taddr at);

uint64_t page_map_pages(const struct page_map *map);
