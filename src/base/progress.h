/* SPDX-License-Identifier: Apache-2.0 */
/* progress.h - whoever waits is told how far the memory is. */
#pragma once
#include <stdint.h>

/* Called often (every half MiB), from any thread, one at a time; must be quick. */
struct progress {
	void (*report)(void *arg, uint64_t pages_done, uint64_t pages_total);
	void *arg;
};

/* Of one job, through all its pumps.  The total may be a guess: it is never less than what is done. */
struct progress_meter {
	const struct progress *to;      /* NULL: nobody listens */
	uint64_t done, total;           /* in pages */
};

static inline void progress_add(struct progress_meter *m, uint64_t pages)
{
	if (!m || !m->to)
		return;
	m->done += pages;
	m->total = m->done > m->total ? m->done : m->total;
	m->to->report(m->to->arg, m->done, m->total);
}
