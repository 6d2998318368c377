/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reaper.h - threads that we hold and that die are waited for, whatever we do meanwhile.
 *
 * A dead thread stays until its tracer has waited for it, and others wait for
 * that: the leader of a killed process, whose end is not told before (so a
 * blocking wait for it would never return); an exec, which ends the other
 * threads, and with it a PTRACE_SEIZE of any thread of that process.
 *
 * How: a timer's signal (SIGALRM, calls are restarted) looks at a list of
 * threads every 20 ms.  The caller owns the reaper.
 */
#pragma once
#include <sys/types.h>

#include "base/err.h"

struct reaper;

int reaper_start(struct reaper **ret_reaper, struct err *err);

/* From now on it looks at these, which stay the caller's and must not change or move until the next call. */
void reaper_look_at(struct reaper *r, const pid_t *tids, size_t count);

/* NULL is allowed. */
void reaper_free(struct reaper *r);

/* At once: stops are not taken, only ends. */
void reap_if_dead(pid_t tid);
