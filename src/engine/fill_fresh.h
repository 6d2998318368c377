/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fill_fresh.h - a vessel's new memory gets its pages without being cleared before.
 *
 *	fill_fresh_begin()   large mappings that have nothing yet are registered with a userfaultfd of the vessel
 *	sink_task.uffd       puts pages there (page/ends.h)
 *	fill_fresh_end()     nothing is registered any more
 *
 * Mappings that ask for huge pages are left out: these are had by writing.
 */
#pragma once
#include "inject/vessel.h"
#include "model/snapshot.h"
#include "page/map.h"

struct fill_fresh {
	int uffd;               /* owned; -1: it is not worth it, or can't be */
	const struct task *task;
};

void fill_fresh_begin(struct fill_fresh *f, struct vessel *v, const struct task *t, const struct page_map *map);
void fill_fresh_end(struct fill_fresh *f);
