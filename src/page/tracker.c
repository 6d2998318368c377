/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/own.h"
#include "kernel/probe.h"
#include "kernel/uffd.h"
#include "page/tracker.h"

static const char *const names[] = {
	[TRACKER_AUTO] = "auto", [TRACKER_NONE] = "none", [TRACKER_SCAN] = "scan", [TRACKER_SOFT_DIRTY] = "soft-dirty",
};

const char *tracker_name(enum tracker_kind kind)
{
	return names[kind];
}

bool tracker_named(const char *name, enum tracker_kind *ret_kind)
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(names[i], name) == 0) {
			*ret_kind = (enum tracker_kind)i;
			return true;
		}
	return false;
}

enum tracker_kind tracker_choose(const struct kernel_features *f, const char **ret_why)
{
	const char *why = "this kernel has neither asynchronous write protection nor soft-dirty: everything is compared";
	enum tracker_kind kind = TRACKER_NONE;

	if (f->pagemap_scan && f->uffd_wp_async && f->pidfd_getfd) {
		kind = TRACKER_SCAN;
		why = "asynchronous write protection and PAGEMAP_SCAN: the tasks run on while they are scanned";
	} else if (f->soft_dirty) {
		kind = TRACKER_SOFT_DIRTY;
		why = "no asynchronous write protection here, but soft-dirty: the tasks stand still while they are scanned";
	}
	if (ret_why)
		*ret_why = why;
	return kind;
}

int tracker_take(const struct tracker *t, taddr start, taddr end, const struct page_map *known, struct page_runs *out,
		 struct err *err)
{
	return t->kind == TRACKER_SCAN ? tracker_scan_take(t, start, end, known, out, err) :
					 tracker_soft_dirty_take(t, start, end, known, out, err);
}

void tracker_forget(const struct tracker *t, taddr page)
{
	/* fails where nothing is registered any more, and there all counts as changed */
	if (t->kind == TRACKER_SCAN)
		uffd_unprotect(t->uffd, page, PAGE_BYTES);
}
