/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dump.h - a process tree goes into a directory of images.
 *
 *	look     VmFlags of all mappings, while the tasks run (slow for big ones); room for their pages
 *	freeze   every thread stands
 *	see      everything into a snapshot; what is not handled ends it here
 *	pages    memory and cores, task by task; in larger trees while the next task is seen
 *	save     the rest of the snapshot into images; then they are sealed
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

enum dump_then { DUMP_THEN_KILL, DUMP_THEN_RUN, DUMP_THEN_STOP };

struct dump_options {
	pid_t root;                     /* of the tree */
	const char *images_dir;
	const char *work_dir;           /* stats-dump; NULL: images_dir */
	enum dump_then then;
	bool shell_job;                 /* the session's leader may be outside of the tree */
	unsigned int timeout_s;         /* for freezing */
	const struct progress *progress;/* NULL: nobody is told */
};

struct dump_result {
	unsigned int tasks, threads;
	uint64_t pages_scanned, pages_written, shared_pages_written, zero_pages;
	uint64_t pages_in_parent;       /* shared by copy on write with a task that has them in its own pages */
	uint64_t freezing_us, frozen_us, memory_us, total_us;
};

int dump_run(const struct dump_options *options, struct dump_result *ret_result, struct err *err);

/* The tree of `root`, left stopped by dump: runs on, or is killed.  Returns how many processes. */
int tree_resume(pid_t root, struct err *err);
int tree_kill(pid_t root, struct err *err);
