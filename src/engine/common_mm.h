/* SPDX-License-Identifier: Apache-2.0 */
/*
 * common_mm.h - which memory of a task is still the same one, a while later?
 *
 * Both ends of a migration ask this of the same two snapshots, and get the same answer: the source, to know what it must
 * send anew; the target, to know what a vessel can keep.  Only private mappings count: they are alike in address, rights,
 * kind and, of files, in path and place.  Contents are another question.
 */
#pragma once
#include "base/vec.h"
#include "inject/vessel.h"
#include "model/snapshot.h"

struct taddr_ranges { struct taddr_range *at; size_t len, cap; };       /* a VEC; rising */

/* The task `before` as it was in one snapshot, `after` as it is in the other.  Adds to `out`. */
void common_mm(const struct snapshot *old, const struct task *before, const struct snapshot *now, const struct task *after,
	       struct taddr_ranges *out);
