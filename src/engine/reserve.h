/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reserve.h - room for pages, taken before the tasks stop.
 *
 * Half of the time that a page takes into a file goes into finding a place for
 * it.  So for each task with much memory of its own a file without a name gets
 * as much room as the task seems to need while it still runs; when its pages
 * are dumped the file becomes their image, and what it has too much is given
 * back.  It is a guess and may fail: then there is no reservation.
 */
#pragma once
#include "engine/see.h"
#include "engine/tracking.h"
#include "image/store.h"

struct reserve { VEC(struct reserved { pid_t pid; int fd; }) files; };

/* On top of an earlier dump (tracking->base): for what has changed so far. */
void reserve_room(const struct look *look, const struct tracking *tracking, struct store *store,
		  struct reserve *ret_reserve);
/* The file for a task's pages, which is the caller's now; -1: none. */
int reserve_take(struct reserve *r, pid_t pid);
void reserve_free(struct reserve *r);
