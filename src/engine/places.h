/* SPDX-License-Identifier: Apache-2.0 */
/*
 * places.h - sessions of a tree.
 *
 * A session can't be joined, only inherited, so not every tree can be made
 * again.  The snapshot's tasks stand parents first; nothing is changed.
 */
#pragma once
#include "base/err.h"
#include "model/snapshot.h"

/* EOPNOTSUPP: names the task that could not be made in its session. */
int check_places(const struct snapshot *s, struct err *err);
