/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dump_pages.h - the memory of frozen tasks goes into pagemap and pages images.
 *
 * What is dumped: of private mappings, the pages that are the task's own
 * (touched anonymous memory, changed pages of private file mappings); of a
 * shared anonymous object everything that was ever touched, once.  Pages of
 * zeros and never-touched ones are left out.
 */
#pragma once
#include "engine/dump.h"
#include "engine/reserve.h"
#include "image/store.h"
#include "model/snapshot.h"

int dump_pages(const struct snapshot *s, struct store *store, struct reserve *reserve, const struct progress *progress,
	       struct dump_result *result, struct err *err);
