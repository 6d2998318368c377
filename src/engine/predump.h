/* SPDX-License-Identifier: Apache-2.0 */
/*
 * predump.h - the memory of a tree, taken while it runs.
 *
 *	look     which tasks, what watches them, what was dumped before
 *	arm      only where a task is not watched yet: the tree stands still while each makes a userfaultfd
 *	take     which pages changed; they are protected in the same step
 *	copy     those pages, while the program goes on
 *	keep     the link is sealed, and a keeper holds the tracking for the next dump
 *
 * The tree stands still from take on where that is the only way to be right:
 * with the soft-dirty tracker, and while direct reads (O_DIRECT) may be in
 * flight, which write behind every tracker's back.
 *
 * What is not here: a snapshot.  A task that ends meanwhile is left out.
 */
#pragma once
#include "engine/dump.h"

int predump_run(const struct dump_options *options, struct dump_result *ret_result, struct err *err);
