/* SPDX-License-Identifier: Apache-2.0 */
/* save.h - a snapshot goes into images, all but pages and cores; the inventory last. */
#pragma once
#include "image/store.h"
#include "model/snapshot.h"

/* The core images of one task; save_snapshot() does not write them. */
int save_cores(const struct task *t, struct store *store, struct err *err);
int save_snapshot(const struct snapshot *s, struct store *store, struct err *err);
/* What kind of directory this is. */
int save_inventory(struct store *store, struct err *err);
