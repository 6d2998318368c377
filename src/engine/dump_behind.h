/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dump_behind.h - what is known of a task is written while the next one is seen.
 *
 * Seeing belongs to the thread that traces; pages and core images can be
 * written by another.  Trees of several tasks get one, which takes tasks in the
 * order in which they are ready, and drops their vector registers when those
 * are written.  Until behind_end() the store and the results
 * are its own; the snapshot's list of tasks does not change, and of a task
 * that is ready nothing does.
 */
#pragma once
#include <pthread.h>

#include "engine/dump_pages.h"

struct behind {
	struct pages_dump pages;
	struct snapshot *snapshot;
	struct tracking *tracking;
	bool took;                      /* the directory is this dump's, and nothing of an earlier one is in it */
	pthread_t thread;
	bool started, threaded;         /* threaded: a thread of its own; else behind_end() does the work */
	pthread_mutex_t lock;
	pthread_cond_t news;
	VEC(size_t) ready;
	size_t taken;
	bool end;
	int r;
	struct err err;
};

/* guard: NULL, or what keeps the memory of tasks that will run: then all is done in behind_end(). */
void behind_begin(struct behind *b, struct snapshot *s, struct tracking *tracking, struct store *store,
		  struct reserve *reserve, struct guard *guard, struct progress_meter meter, struct dump_result *result);
/*
 * What an earlier dump left in the directory goes, and its keeper ends.  Done before the first task is written: a tree that
 * is refused before leaves all as it was.  For who writes something earlier, and then no task is being written.
 */
int behind_take_directory(struct behind *b, struct err *err);
/* A task (zombies too) is complete and its threads stand as they will be found. */
void behind_ready(struct behind *b, size_t index);
/* Waits for it, and ends the pages' dump.  abandon: what is not begun is not done.  May be called without begin. */
int behind_end(struct behind *b, bool abandon, struct err *err);
