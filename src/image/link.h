/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.h - a directory of images as a link of a chain.
 *
 *	C --parent--> B --parent--> A          each an own directory; `parent` is a relative symbolic link
 *
 * C has the pages that changed since B, and says of the others that B has them.
 * Every link that ferry writes has an id (ferry-link.img) and knows its
 * parent's: a chain in which somebody replaced a directory is refused instead of
 * read.  Directories that CRIU wrote have no ids, and are taken as they are.
 *
 * Deduplication gives up pages of A that C has anew.  From then on A can be read
 * through C only, which it says in ferry-replaced.img, written before the first
 * byte goes.
 *
 * A directory's own COW_DIR (pages that parent and child share, see
 * page/cow.h) is no link: it has no ferry-link.img, and is its owner's.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "image/store.h"

#define LINK_ID_BYTES   16u
#define LINK_PARENT     "parent"        /* CRIU's name for the link to the parent directory */
#define COW_DIR         "cow"           /* pages that parent and child share, see page/cow.h */

struct link_id { uint8_t bytes[LINK_ID_BYTES]; };

struct image_link {
	struct link_id id, parent_id;
	bool has_parent_id;
	bool memory_only;               /* a pre-dump */
	pid_t root;                     /* the program: pid, start and boot together are one process; 0: not said */
	uint64_t start_ticks;
	char boot_id[40];
	char tracker[16];               /* "" where none was used */
};

/* Random. */
int link_id_new(struct link_id *ret_id, struct err *err);
bool link_id_same(const struct link_id *a, const struct link_id *b);

/* 1: *ret_link is what the directory says; 0: it says nothing (CRIU's). */
int link_read(const struct store *store, struct image_link *ret_link, struct err *err);
int link_write(struct store *store, const struct image_link *link, struct err *err);

/*
 * What an earlier dump left in the directory is no dump any more, and no link: for who is about to write a new one into
 * it.  However that ends, nobody takes the one for the other, or a part of both for a whole.
 */
int link_clear(struct store *store, struct err *err);

/*
 * Makes `parent` lead to the directory `path`: relative to the store's own, as CRIU has it.  An absolute one is made
 * relative.  ENOENT, with a hint, where no images are there.
 */
int link_set_parent(struct store *store, const char *path, struct err *err);
/* The same for a page server's directories, which have pages alone until the other images follow. */
int link_set_parent_of_pages(struct store *store, const char *path, struct err *err);
/*
 * The same without a trace: *ret_parent, the caller's, is that directory, at the end of a whole chain.  ELOOP: `store`
 * is one of its links.
 */
int link_open_parent(struct store *store, const char *path, struct store **ret_parent, struct err *err);

/*
 * Says that `store` is readable through the link `by` alone; replaces what was said before, at once, and for good when
 * this returns 0.
 */
int link_set_replaced(struct store *store, const struct link_id *by, struct err *err);
/* The same for a link that is not named yet: whoever has it as a parent. */
int link_set_replaced_by_next(struct store *store, struct err *err);
/* The same where nobody has its pages any more but a program that was restored. */
int link_set_consumed(struct store *store, struct err *err);
/* 1: *ret_by is the link that `store` is readable through; 0: it is readable by itself. */
int link_replaced_by(const struct store *store, struct link_id *ret_by, struct err *err);

/*
 * Follows the chain from `store` to its end: each parent is there, is the one that its child was made on, and has
 * not given up pages for a link that is not in this chain.  And the pages of `store` are here, not only on a page server.
 * EBADMSG, ENOENT, ELOOP.
 */
int link_check_chain(struct store *store, struct err *err);

/* The directory of pages that this one's tasks share (COW_DIR) stands between it and its parent. */
bool link_leads_to_own_pages(const struct store *store);
