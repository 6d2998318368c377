/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.h - images become a snapshot, checked from end to end.
 *
 * After this every id in the snapshot leads somewhere, mappings are in order
 * and within user space, pages are in them, pids are unique: whoever makes tasks from it need not
 * ask again.  Whatever is wrong is EBADMSG; what is right but not handled yet
 * is EOPNOTSUPP.
 */
#pragma once
#include "image/store.h"
#include "model/snapshot.h"
#include "page/map.h"

#define LOAD_FD_MAX 0x100000    /* descriptors from here on don't exist (fs.nr_open's default) */

int load_snapshot(struct store *store, struct snapshot *s, struct err *err);

/* Parts, each in its file. */
int load_files(struct store *store, struct snapshot *s, struct err *err);
int load_fdinfo(struct store *store, struct snapshot *s, struct task *t, struct err *err);
int load_mm(struct store *store, struct snapshot *s, struct task *t, struct err *err);
/* The pages of a task, cut at the borders of its mappings (all are private); none at all: empty maps. */
struct loaded_pages {
	struct page_map map;
	struct page_map vdso;           /* pieces only, of the same files: nobody is filled with them */
};
int load_pages(struct store *store, const struct task *t, struct loaded_pages *ret, struct err *err);
void loaded_pages_free(struct loaded_pages *pages);
/* Those of the vdso are as ferry's own?  `read` has the bytes of a piece. */
typedef int load_read(void *arg, const struct page_map *map, const struct page_piece *p, void *buf, struct err *err);
int load_check_vdso(const struct task *t, const struct loaded_pages *pages, load_read *read, void *arg, struct err *err);
/* The mapping that has this page (NULL: none), for a walk over rising pages: *at, 0 at first, goes forward. */
const struct vma *load_vma_at(const struct task *t, taddr page, size_t *at);
/* The file `id`, which somebody needs: marked as used. */
int load_need_file(struct snapshot *s, uint32_t id, const char *what, struct file **ret_file, struct err *err);
/* The same; it must be something that was opened by its path. */
int load_need_path(struct snapshot *s, uint32_t id, const char *what, struct err *err);
