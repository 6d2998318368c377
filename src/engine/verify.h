/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify.h - is a directory, with all that it takes pages from, what was written?
 *
 *	chain    every link is the one that it should be
 *	images   of each directory, with its checksums (image/checksums.h)
 *	pages    of each pages file, with its sums (page/sums.h)
 *
 * All that is broken is told, not the first alone.  A page that was given up for
 * the directory (dedup.h) is not broken: its link is marked, this chain does not
 * read it, and it reads as zeros, whether as a hole or as a copy of one.
 */
#pragma once
#include <stdint.h>

#include "base/err.h"
#include "base/progress.h"

/* Who is told, a line each.  dir: as it was named, a parent's as its path is. */
struct verify_report {
	void (*broken)(void *arg, const char *dir, const char *what);
	void (*unchecked)(void *arg, const char *dir, const char *what);        /* it has no checksums */
	void *arg;
};

struct verify_result {
	unsigned int links;             /* directories of dumps */
	uint64_t images, pages;         /* compared */
	uint64_t given_up;              /* pages among them that are no more, and not needed */
	unsigned int broken, unchecked; /* how often the report was called */
};

/* 0: all was looked at, whatever came of it.  ENOENT and others: there is nothing to look at. */
int verify_dir(const char *dir, const struct verify_report *report, const struct progress *progress,
	       struct verify_result *ret_result, struct err *err);
