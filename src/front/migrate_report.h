/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_report.h - what is seen of a migration: lines and a bar on a terminal, or events (--progress json[:FD]).
 *
 *	{"event": "phase", "phase": "stage", "spent_s": 0.001}
 *	{"event": "progress", "round": 1, "bytes": 104857600, "bytes_total": 1073741824, "spent_s": 0.210}
 *	{"event": "round", "round": 1, "bytes": ..., "round_s": ..., "gb_per_s": ..., "dirty_bytes": ..., "dirty_gb_per_s": ...,
 *	 "downtime_ms": ..., "throttle": 0, "spent_s": ...}
 *	{"event": "blocked", "what": "...", "remedy": "..."}
 *	{"event": "done", "rounds": ..., "bytes": ..., "downtime_ms": ..., "spent_s": ...}      or "failed": the last one
 *
 * A reader that does not read is not waited for, but for the last event a moment: tasks stand still meanwhile.
 */
#pragma once
#include <stdbool.h>

#include "engine/migrate.h"
#include "front/options.h"

struct migrate_report {
	const struct options *options;
	int fd;                         /* of the events; -1: none */
	bool terminal, shown;           /* stderr is one; a bar is drawn there */
	unsigned int rounds;
	uint64_t began_us, told_us, round_us;
};

/* EINVAL, EBADF: --progress is not understood.  Sets what of *ret_options tells. */
int migrate_report_begin(struct migrate_report *r, const struct options *options, struct migrate_options *ret_options,
			 struct err *err);
/* result: NULL when it has failed. */
void migrate_report_end(struct migrate_report *r, const struct migrate_result *result);
