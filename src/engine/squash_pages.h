/* SPDX-License-Identifier: Apache-2.0 */
/*
 * squash_pages.h - the pages of a chain on their way into one directory.
 *
 *	squash_pages_begin()    loads everything once: what is broken is told before anything is written
 *	squash_pages_move()     pagemaps and pages files, shared pages once
 */
#pragma once
#include <signal.h>

#include "base/progress.h"
#include "engine/stream_out.h"
#include "image/store.h"
#include "page/cow.h"
#include "page/ends.h"

/* A page that was written: by whom it can be shared. */
struct squash_place { taddr start; uint64_t pages; dev_t dev; ino_t ino; uint64_t offset; };

struct squash_task { uint64_t id; uint32_t pages_id; VEC(struct squash_place) places; };

struct squash_pages {
	struct store *from;
	struct cow_dir cow;                     /* with the directory that is written */
	VEC(struct store_name) maps;            /* parents before their children, as far as the images say */
	VEC(struct squash_task) tasks;          /* that were written; index + 1 is the pages_id */
	VEC(struct { dev_t dev; ino_t ino; size_t task; }) owners;      /* who was the first to have pages in a file */
	struct progress_meter meter;
	uint64_t pages, shared_pages;
	sigset_t stop_on;                       /* blocked signals that end the work */
	uint32_t next_id;
	struct stream_out *stream;              /* where the pages go later; NULL: they go into files now */
};

int squash_pages_begin(struct squash_pages *s, struct err *err);
int squash_pages_move(struct squash_pages *s, struct err *err);
/* EINTR when a signal to stop on has come. */
int squash_pages_stopped(const struct squash_pages *s, struct err *err);
void squash_pages_free(struct squash_pages *s);
