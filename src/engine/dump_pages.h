/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dump_pages.h - the memory of frozen tasks goes into pagemap and pages images.
 *
 * What is dumped: of private mappings, the pages that are the task's own
 * (touched anonymous memory, changed pages of private file mappings); of a
 * shared anonymous object everything that was ever touched, once.  Pages of
 * zeros and never-touched ones are left out.  On top of an earlier dump: what
 * changed since; the rest is said to be there.
 *
 *	pages_begin()
 *	pages_task()     each task, parents before children, when its mappings are known and it stands as it will be found
 *	pages_shared()   shared memory objects, earlier: in a stop that ends before the rest is done
 *	pages_end()      shared memory objects; call once after a successful begin, abandoned or not
 */
#pragma once
#include "engine/dump.h"
#include "engine/dump_shared.h"
#include "engine/guard.h"
#include "engine/move.h"
#include "engine/reserve.h"
#include "engine/stream_out.h"
#include "engine/tracking.h"
#include "image/store.h"
#include "model/snapshot.h"

struct pages_dump {
	struct moving moving;
	const struct tracking *tracking;
	struct reserve *reserve;
	struct guard *guard;            /* NULL: the tasks stand still */
	struct stream_out *stream;      /* set after pages_begin(); NULL: pages are moved at once */
	struct dump_result *result;
	bool shared_done;
	struct shared_dump shared;
};

/* The snapshot has all its tasks (but not yet all that is known of them). */
void pages_begin(struct pages_dump *d, const struct snapshot *s, const struct tracking *tracking, struct store *store,
		struct reserve *reserve, struct guard *guard, struct progress_meter meter, struct dump_result *result);
int pages_task(struct pages_dump *d, size_t index, struct err *err);
int pages_shared(struct pages_dump *d, struct err *err);
int pages_end(struct pages_dump *d, bool abandon, struct err *err);
