/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.h - images become a snapshot, checked from end to end.
 *
 * After this every id in the snapshot leads somewhere, mappings are in order
 * and within user space, pids are unique: whoever makes tasks from it need not
 * ask again.  Whatever is wrong is EBADMSG; what is right but not handled yet
 * is EOPNOTSUPP.
 */
#pragma once
#include "image/store.h"
#include "model/snapshot.h"

#define LOAD_FD_MAX 0x100000    /* descriptors from here on don't exist (fs.nr_open's default) */

int load_snapshot(struct store *store, struct snapshot *s, struct err *err);

/* Parts, each in its file. */
int load_files(struct store *store, struct snapshot *s, struct err *err);
int load_fdinfo(struct store *store, struct snapshot *s, struct task *t, struct err *err);
int load_mm(struct store *store, struct snapshot *s, struct task *t, struct err *err);
/* The file `id`, which somebody needs: marked as used. */
int load_need_file(struct snapshot *s, uint32_t id, const char *what, struct file **ret_file, struct err *err);
/* The same; it must be something that was opened by its path. */
int load_need_path(struct snapshot *s, uint32_t id, const char *what, struct err *err);
