/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dedup.h - the older links of a chain give up pages.
 *
 *	C --> B --> A           dedup_chain(C): what C does not read of B and A goes
 *
 * Needed is what the page maps of the newest link lead to, through the whole
 * chain; all else is punched out of the pages files of the older links.  The
 * newest link keeps everything, and is whole at every instant.
 *
 * An older link that gave something up would be restored wrongly by itself, so
 * it is marked first (ferry-replaced.img: readable through C alone, link.h).
 * The rule:
 *
 *  - Marked are the links that give something up, and those between them and C,
 *    which are read through them.
 *  - A mark replaces an older one.  A, marked "through B" when B was the newest,
 *    becomes "through C": what B alone needs of A goes now, so that B is refused
 *    from here on; and every chain that has C in it has B too.
 *  - A link that gives up nothing more keeps the mark that it has.
 *  - The mark is on the disk before the first page goes, and all of C is before
 *    the first mark.
 *
 * A chain whose newest link has no id (CRIU's) can't say so: its older links lose
 * their pages without a mark, as with CRIU, and the log warns.
 */
#pragma once
#include <stdint.h>

#include "base/err.h"
#include "image/store.h"

struct dedup_result {
	unsigned int links;             /* older ones */
	unsigned int marked;
	uint64_t pages;                 /* given up */
};

int dedup_chain(const char *dir, struct dedup_result *ret, struct err *err);

/*
 * The whole chain was restored and is given up with all its pages: none of its links can be restored again, and each
 * says so.
 */
int dedup_consume(const char *dir, struct dedup_result *ret, struct err *err);

/*
 * The newest link has its pages (a page server stored them), and will have the other images later, its id with them: the
 * older ones are marked as readable through whoever is on top of them.
 */
int dedup_pages(struct store *newest, struct dedup_result *ret, struct err *err);
