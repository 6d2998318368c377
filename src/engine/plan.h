/* SPDX-License-Identifier: Apache-2.0 */
/* plan.h - which pages of a mapping go into an image, and which the last link has already. */
#pragma once
#include "page/runs.h"
#include "page/tracker.h"

struct planning {
	int pagemap;
	const struct tracker *tracker;  /* NULL: none */
	const struct page_map *known;   /* what the last link has; NULL: nothing */
	bool believe;                   /* the tracker tells what changed since the last link; else all is compared with it */
	bool running;                   /* the task runs: pages may go before they are read */
};

struct plan_range {
	taddr start, end;
	bool anon;                      /* else of a private file mapping */
	bool vdso;                      /* dumped whole: whoever restores compares it with the vdso of the kernel there */
	bool gently;                    /* shares pages with other tasks */
};

int plan_range(const struct planning *p, const struct plan_range *range, struct page_runs *plan, struct err *err);
