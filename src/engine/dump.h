/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dump.h - a process tree goes into a directory of images.
 *
 *	look     VmFlags of all mappings, while the tasks run (slow for big ones); room for their pages
 *	guard    in the background: the tasks are armed in a short stop, and their memory is protected while they run
 *	freeze   every thread stands
 *	see      everything into a snapshot; what is not handled ends it here
 *	pages    memory and cores, task by task; in larger trees while the next task is seen
 *	run on   in the background: the stop is over, what follows is of its moment
 *	save     the rest of the snapshot into images; then they are sealed
 *	send     a stream: images were written into memory, and of pages only where they will be; now all of it goes out
 *	let go   killed, left running or left stopped
 *
 * Any failure before "let go" lets the tree run on as it was; so does the
 * death of ferry at any instant.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/progress.h"
#include "engine/destination.h"
#include "page/tracker.h"
#include "wire/codec.h"

enum dump_background { BACKGROUND_NO, BACKGROUND_ONLY, BACKGROUND_OR_STOP /* where it can't be */ };
enum dump_then { DUMP_THEN_KILL, DUMP_THEN_RUN, DUMP_THEN_STOP };

struct dump_options {
	pid_t root;                     /* of the tree */
	const char *images_dir;         /* NULL with a stream */
	int stream_fd;                  /* the images go there as a stream; -1: into the directory */
	struct codec_choice compress;   /* of the stream */
	const char *work_dir;           /* stats-dump; NULL: images_dir */
	enum dump_then then;
	enum dump_background background;        /* with DUMP_THEN_RUN */
	bool track;                     /* changes from now on, for a next dump */
	const char *base_dir;           /* the dump that this one is made on, relative to images_dir; NULL: none */
	enum tracker_kind tracker;
	bool shell_job;                 /* the session's leader may be outside of the tree */
	unsigned int timeout_s;         /* for freezing */
	const struct server_address *server;    /* where the pages go; NULL: into images_dir */
	const struct progress *progress;/* NULL: nobody is told */
};

struct dump_result {
	unsigned int tasks, threads;
	uint64_t pages_scanned, pages_written, shared_pages_written, zero_pages;
	uint64_t pages_in_parent;       /* that the last dump has, or a task that shares them by copy on write */
	uint64_t wire_bytes;            /* of a stream */
	uint64_t freezing_us, frozen_us, memory_us, total_us;
};

int dump_run(const struct dump_options *options, struct dump_result *ret_result, struct err *err);

/* Where the pages go. */
int dump_destination(const struct dump_options *options, struct store *store, struct destination **ret, struct err *err);

/* stats-dump, in the work directory; a failure is a warning. */
void dump_save_stats(const struct dump_options *options, const struct dump_result *result);

/* The tree of `root`, left stopped by dump: runs on, or is killed.  Returns how many processes. */
int tree_resume(pid_t root, struct err *err);
int tree_kill(pid_t root, struct err *err);
