/* SPDX-License-Identifier: Apache-2.0 */
/*
 * box.h - a temporary place for directories of images.
 *
 * Every step fails the test where it fails.  Pages that a box writes say whose
 * they are: box_page() gives their contents.
 */
#pragma once
#include "../cm.h"
#include "image/messages.h"
#include "image/store.h"

struct box { char dir[64]; struct err err; };

int box_setup(void **state);
int box_teardown(void **state);         /* removes it with all that is in it */
#define BOX_TEST(f) cmocka_unit_test_setup_teardown(f, box_setup, box_teardown)

/* The directory NAME in the box; own_store. */
struct store *box_create(struct box *b, const char *name);
struct store *box_open(struct box *b, const char *name);
void box_parent(struct box *b, const char *name, const char *target);   /* NAME/parent -> target */

void box_page(uint32_t pages_id, uint64_t index, uint8_t ret_page[static 4096]);
/* pages-ID.img with `count` such pages, and `more` bytes */
void box_pages(struct box *b, struct store *store, uint32_t pages_id, uint64_t count, size_t more);
/* pagemap-ID.img that goes with it */
void box_pagemap(struct box *b, struct store *store, uint64_t id, uint32_t pages_id, const PagemapEntry *entries,
		 size_t count);

#define ENTRY(...) { .base = PROTOBUF_C_MESSAGE_INIT(&pagemap_entry__descriptor), __VA_ARGS__ }
/* As ferry and CRIU 4 write one: 1 parent, 2 lazy, 4 here. */
#define RUN(at, pages, where) ENTRY(.vaddr = (at), .compat_nr_pages = (uint32_t)(pages), .has_nr_pages = true, \
				    .nr_pages = (pages), .has_flags = true, .flags = (where))
