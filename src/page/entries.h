/* SPDX-License-Identifier: Apache-2.0 */
/* entries.h - runs become the entries of a pagemap image: those that go on where the last one ended are one. */
#pragma once
#include "image/store.h"
#include "page/page.h"

struct page_entries {
	struct image_writer *writer;
	struct page_run open;           /* the entry being grown */
};

int entries_add(struct page_entries *e, const struct page_run *run, struct err *err);
/* Writes the last one; the writer stays the caller's. */
int entries_end(struct page_entries *e, struct err *err);
