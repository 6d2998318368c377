/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/plan.h"

/* Takes what the tracker says, or, where it can't be believed, all that is in use.  1: the tracker's word. */
static int list(const struct planning *p, const struct plan_range *range, struct page_runs *runs, struct err *err)
{
	int r = 1;

	if (range->vdso) {
		runs_add(runs, range->start, range->end, PAGE_HERE);
		return 0;
	}
	if (p->tracker && range->anon)
		r = tracker_take(p->tracker, range->start, range->end, p->believe ? p->known : NULL, runs, err);
	if (r < 0 || (r == 0 && p->believe))
		return r < 0 ? r : 1;
	runs->len = 0;
	return runs_in_use(p->pagemap, range->start, range->end, runs, err);
}

int plan_range(const struct planning *p, const struct plan_range *range, struct page_runs *plan, struct err *err)
{
	struct page_runs runs = { 0 };
	int r = list(p, range, &runs, err);

	for (size_t i = 0; r >= 0 && i < runs.len; i++) {
		struct page_run *run = &runs.at[i];

		run->may_skip_zero = range->anon && !range->vdso;
		run->gently = range->gently || range->vdso;
		run->compare |= r == 0 && p->known;     /* or the tracker is not sure */
		run->may_vanish = p->running;
		vec_push(plan, *run);
	}
	vec_free(&runs);
	return r < 0 ? r : 0;
}
