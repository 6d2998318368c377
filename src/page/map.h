/* SPDX-License-Identifier: Apache-2.0 */
/*
 * map.h - what a pagemap image says, with every page traced to the file that has it.
 *
 * A link of a chain says of some pages that its parent directory has them; here
 * the parents are followed until each piece of the address space has a file and
 * an offset in it.  Everything is checked: rising addresses, no overlap, within
 * user space, within the pages file.
 *
 * The map owns its files.  Two pieces with the same file identity and offset
 * are the same bytes: that is how pages shared by parent and child are known.
 */
#pragma once
#include "base/vec.h"
#include "image/store.h"
#include "page/page.h"

struct page_file {
	int fd;
	dev_t dev;
	ino_t ino;
	uint64_t size_bytes;
};

struct page_piece {
	taddr start;
	uint64_t pages;
	uint32_t file;                  /* index in files */
	uint64_t offset;                /* in bytes */
};

struct page_map {
	VEC(struct page_file) files;
	VEC(struct page_piece) pieces;  /* rising, disjoint */
};

/* kind: IMAGE_PAGEMAP or IMAGE_PAGEMAP_SHMEM.  1: loaded; 0: there is no such image (no pages). */
int page_map_load(struct store *store, enum image_kind kind, uint64_t id, struct page_map *ret_map,
		  struct err *err);
void page_map_free(struct page_map *map);

uint64_t page_map_pages(const struct page_map *map);
