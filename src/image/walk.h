/* SPDX-License-Identifier: Apache-2.0 */
/*
 * walk.h - every record of an image, whatever its kind.
 *
 * The layout is the catalogue's.  A visitor sees each record once, in order:
 * the message (only until it returns), whether it is a child of the record
 * before, and how many raw bytes follow it (they are passed over).
 */
#pragma once
#include <stdbool.h>

#include "image/store.h"

typedef int image_visitor(void *context, const ProtobufCMessage *record, bool child, uint64_t raw_bytes,
			  struct err *err);

/* From the header on to the end; stops at the first negative result of the visitor and returns it.
 * A raw image has no record.  EBADMSG where the image does not hold what its kind should. */
int image_walk(struct image_reader *r, image_visitor *visit, void *context, struct err *err);
