/* SPDX-License-Identifier: Apache-2.0 */
/*
 * squash.h - a chain of directories becomes one that has everything.
 *
 *	C --> B --> A           OUT: C's images, and all pages that C reads
 *
 * OUT is a link without a parent, and with an id of its own where it is made of several; its pages are all
 * there, and whoever restores needs nothing else.  What several tasks share (the
 * same bytes of the same file, at the same address) is written once: OUT/cow
 * has it for the others, as a dump does it (dump_shared.h).  The chain stays as
 * it is.  A pre-dump becomes a pre-dump.
 *
 * OUT may be a stream as well (stream_out.h): pagemaps and images are made in
 * memory, and the pages are read from the chain when it is their turn.
 *
 * inventory.img and the checksums come last: before them OUT is no dump.  After a
 * failure OUT is as it was; so it is when SIGINT, SIGTERM, SIGHUP or SIGQUIT
 * comes, which ends ferry when OUT is cleared.
 */
#pragma once
#include <stdint.h>

#include "base/err.h"
#include "base/progress.h"
#include "wire/codec.h"

struct squash_result {
	unsigned int links;             /* directories that became one */
	uint64_t pages, shared_pages;   /* written; written once for several */
};

/* out: must not exist, or be an empty directory. */
int squash_chain(const char *dir, const char *out, const struct progress *progress, struct squash_result *ret,
		 struct err *err);

int squash_to_stream(const char *dir, int fd, const struct codec_choice *compress, const struct progress *progress,
		     struct squash_result *ret, struct err *err);
