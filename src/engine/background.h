/* SPDX-License-Identifier: Apache-2.0 */
/*
 * background.h - a dump of tasks that run on: guard and escort, step by step.
 *
 *	background_begin()    a short stop in which the tasks are armed; then they run, and all is protected
 *	background_freeze()   the stop whose moment is dumped
 *	background_hold()     ... and from here on it is kept
 *	background_run_on()   the stop is over; the moment stays
 *	background_while()    what is left to do, meanwhile
 *	background_end()      the tasks are on their own again
 *
 * From begin to end ferry's thread goes before all others where it may (SCHED_FIFO): others wait for it.
 * Any failure, and the death of ferry, lets the tasks run on.
 */
#pragma once
#include <sched.h>

#include "engine/escort.h"

struct background {
	struct guard guard;
	struct escort escort;
	uint64_t stood_us;              /* for arming */
	bool begun;
	int policy;                     /* of this thread, before */
	struct sched_param param;
};

/* EOPNOTSUPP and others: it can't be done, and why; the tasks run, and the ordinary way is free. */
int background_begin(struct background *b, pid_t root, unsigned int timeout_s, int dirfd, struct err *err);
int background_freeze(struct background *b, pid_t root, unsigned int timeout_s, struct frozen_tree *ret_tree,
		      struct err *err);
int background_hold(struct background *b, const struct frozen_tree *tree, struct err *err);
int background_run_on(struct background *b, struct frozen_tree *tree, const struct snapshot *s, struct err *err);
int background_while(struct background *b, escort_work *work, void *arg, struct err *err);
/* May be called at any time, and more than once. */
void background_end(struct background *b);
