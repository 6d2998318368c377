/* SPDX-License-Identifier: Apache-2.0 */
/* save.h - a snapshot goes into images, all but pages; the inventory last. */
#pragma once
#include "image/store.h"
#include "model/snapshot.h"

int save_snapshot(const struct snapshot *s, struct store *store, struct err *err);
