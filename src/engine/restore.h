/* SPDX-License-Identifier: Apache-2.0 */
/*
 * restore.h - a directory of images becomes running tasks again.
 *
 *	load     images into a snapshot; everything is checked
 *	files    every open file description is made, once, in ferry
 *	tree     vessels with their pids, parents first: mappings, memory
 *	state    descriptors, threads, attributes; children first
 *	go       registers, and all are let go
 *
 * No task exists before everything was read and checked and every file was
 * opened; any failure, and the death of ferry, ends all vessels.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/progress.h"

struct restore_options {
	const char *images_dir;         /* NULL with a stream */
	int stream_fd;                  /* a stream to read instead; -1: none */
	const char *work_dir;           /* stats-restore; NULL: images_dir */
	bool sibling;                   /* the root becomes a child of our parent, not of us */
	bool shell_job;                 /* the root joins our session and process group where its own are not in the tree */
	bool unchecked;                 /* whatever the checksums of images and pages say */
	bool check_only;                /* stop after load: make nothing */
	const struct progress *progress;
};

struct restore_result {
	pid_t root;
	unsigned int tasks, threads;
	uint64_t pages_restored, pages_compared, pages_shared;
	uint64_t forking_us, total_us;
};

/* The root is our child (unless sibling) and runs when this returns 0; who waits for it is the caller. */
int restore_run(const struct restore_options *options, struct restore_result *ret_result, struct err *err);
