/* SPDX-License-Identifier: Apache-2.0 */
/*
 * summary.h - a directory of images on one page: `ferry show DIR`.
 *
 *	Images    format, checksums
 *	Tasks     the tree: pid, name, state, threads
 *	Memory    an address space or shared object a line: mappings, and where its pages are
 *	Files     a table of descriptors each: number, kind, what it is
 *	Chain     the directories that pages come from (chain.h)
 *	Total     pages and bytes
 *
 * It shows what is there: a part whose images are missing (a pre-dump has but
 * memory) is left out.  Nothing but the images is looked at.
 */
#pragma once
#include <stdio.h>

#include "image/store.h"

int summary_print(struct store *store, FILE *out, struct err *err);
