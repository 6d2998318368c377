/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack.h - a stream becomes a directory of images, as a whole or not at all.
 *
 * Where ferry is ended meanwhile, what is left is no dump: inventory.img is empty.
 */
#pragma once
#include <stdint.h>

#include "base/err.h"
#include "base/progress.h"

struct unpack_result { uint64_t images, pages; };

/* fd: a stream, read to its seal.  dir: must not exist, or be empty. */
int unpack_stream(int fd, const char *dir, const struct progress *progress, struct unpack_result *ret, struct err *err);
