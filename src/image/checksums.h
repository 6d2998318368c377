/* SPDX-License-Identifier: Apache-2.0 */
/*
 * checksums.h - ferry-checksums.img: is this directory what a dump left?
 *
 * A record for each image (name, length, XXH3-128 of its bytes), then a seal:
 * a record with the hash of all before it in this image, so that no byte of
 * it can be lost or changed either.  Pages files are not covered themselves, but
 * by the sums of their pages (page/sums.h), which are an image too; images that
 * may come from elsewhere (a page server's pagemaps) are covered when the dump
 * wrote them, and let through when it didn't.
 */
#pragma once
#include "image/store_impl.h"

/* Lists the store's images and removes what an earlier dump left in its directory. */
int checksums_write(struct store *store, struct err *err);

/* Who is told of every broken image, where the first is not the end. */
struct checksums_report {
	void (*broken)(void *arg, const struct err *why);
	void *arg;
};

/*
 * 1: all images are as they were written, *ret_images of them; 0: the directory has no checksums; EBADMSG: the first that
 * is not, unless there is a report.
 */
int checksums_verify(const struct store *store, const struct checksums_report *report, unsigned int *ret_images,
		     struct err *err);
