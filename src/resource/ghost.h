/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ghost.h - regular files that have no name any more.
 *
 * Their contents go into ghost-file images, and remap-fpath says which file
 * ids are open on which ghost.  To be opened again a ghost is written to a
 * file beside its old path (directories that are gone too are made).  When all
 * files are open it gets its old name, if that is free, and is removed at once:
 * nobody meets it, and a restore that is killed leaves a file whose name tells
 * what it is, which the next restore takes away.  While one works on it, it is
 * locked (flock).
 */
#pragma once
#include "resource/resource.h"

/* Notes that v is open on a ghost; the same inode is one ghost. */
void ghost_see(const struct fd_view *v);

/*
 * Where file `id`, once called `path`, is to be opened: *ret_path changes only
 * for a ghost.  tmpfile_flags: 0, or how it was opened as a file without a name
 * (O_TMPFILE); the first such description comes with the ghost: *ret_fd.
 */
int ghost_make(uint32_t id, const char *path, int tmpfile_flags, struct maker *m, const char **ret_path, int *ret_fd,
	       struct err *err);

/* All files are open, or none will be: whatever ghost_make() has put into directories goes, and they themselves. */
void ghost_remove_all(struct maker *m);

int ghost_save(const struct snapshot *s, struct store *store, struct err *err);
int ghost_load(struct snapshot *s, struct store *store, struct err *err);
