/* SPDX-License-Identifier: Apache-2.0 */
/* pages.h - what pagemap images say, counted: nothing is followed, and nothing but the images is looked at. */
#pragma once
#include "image/store.h"

struct pages { uint64_t here, parent, lazy; };

/* Adds to *pages.  1: counted; 0: there is no such image. */
int pages_count(const struct store *store, enum image_kind kind, uint64_t id, uint32_t *ret_pages_id, struct pages *pages,
		struct err *err);
/* All pagemaps of a directory. */
int pages_count_all(const struct store *store, struct pages *pages, struct err *err);
