/* SPDX-License-Identifier: Apache-2.0 */
/*
 * phase.h - the steps of a migration, named once for both ends.
 *
 * migrate_source.c and migrate_target.c have a function a phase, of the same name, in this order.  Who may run in which
 * phase, and which one may follow, is the table in phase.c: the promise that never two run, and never none.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum phase {
	PHASE_HELLO,    /* who are you, and can you? */
	PHASE_STAGE,    /* the tasks-to-be are made at the target, and get all memory for the first time */
	PHASE_ROUND,    /* what changed meanwhile; again and again */
	PHASE_FREEZE,   /* the source stands still */
	PHASE_STATE,    /* all that is not memory */
	PHASE_LAST,     /* the last pages */
	PHASE_READY,    /* the target has everything in place, and waits for a word */
	PHASE_COMMIT,   /* the word: from here on the target is the owner */
	PHASE_DONE,     /* the target runs; the source is ended */
	PHASE_ABORT,    /* the source runs on, the target has nothing */
	PHASE_COUNT,
};

struct phase_rule {
	const char *name;
	uint32_t next;                  /* a bit for each that may follow */
	bool source_runs, target_runs;
};

extern const struct phase_rule phase_rules[PHASE_COUNT];

static inline bool phase_may(enum phase from, enum phase to)
{
	return phase_rules[from].next >> to & 1;
}
