/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dump_pages.h - the memory of frozen tasks goes into pagemap and pages images.
 *
 * What is dumped: of private mappings, the pages that are the task's own
 * (touched anonymous memory, changed pages of private file mappings); of a
 * shared anonymous object everything that was ever touched, once.  Pages of
 * zeros and never-touched ones are left out.
 *
 *	pages_begin()
 *	pages_task()     each task, parents before children, when its mappings are known and it stands as it will be found
 *	pages_end()      shared memory objects; call once after a successful begin, abandoned or not
 */
#pragma once
#include "engine/dump.h"
#include "engine/dump_shared.h"
#include "engine/reserve.h"
#include "image/store.h"
#include "model/snapshot.h"

struct pages_dump {
	struct store *store;
	struct reserve *reserve;
	struct progress_meter meter;
	struct dump_result *result;
	struct shared_dump shared;
	uint32_t next_pages_id;
};

/* The snapshot has all its tasks (but not yet all that is known of them). */
int pages_begin(struct pages_dump *d, const struct snapshot *s, struct store *store, struct reserve *reserve,
		struct progress_meter meter, struct dump_result *result, struct err *err);
int pages_task(struct pages_dump *d, size_t index, struct err *err);
int pages_end(struct pages_dump *d, bool abandon, struct err *err);
