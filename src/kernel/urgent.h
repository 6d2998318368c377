/* SPDX-License-Identifier: Apache-2.0 */
/*
 * urgent.h - while tasks stand still for us, nobody is served before us.
 *
 * From urgent_begin() to urgent_end() the calling thread runs SCHED_FIFO: on a
 * busy machine the stop would else last as long as we wait for a processor, and
 * the tasks that are let go would preempt us before the last of them runs.
 * Without the right to it (CAP_SYS_NICE) nothing happens.  For some milliseconds only.
 */
#pragma once
#include <sched.h>
#include <stdbool.h>

struct urgent { bool is; int policy; struct sched_param param; };

void urgent_begin(struct urgent *u);
void urgent_end(struct urgent *u);

/* The other way round: from now on the calling thread steps back behind programs that have work to do. */
void not_urgent(void);
