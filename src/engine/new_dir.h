/* SPDX-License-Identifier: Apache-2.0 */
/*
 * new_dir.h - a directory of images that is there as a whole or not at all.
 *
 * It must not exist, or be empty.  new_dir_remove() makes it what it was, whatever images were written meanwhile.
 */
#pragma once
#include <stdbool.h>

#include "image/store.h"

struct new_dir {
	const char *path;
	bool made;              /* it is ours */
	struct store *store;    /* owned; NULL until it is open */
};

int new_dir_make(struct new_dir *d, const char *path, struct err *err);
void new_dir_remove(struct new_dir *d);
void new_dir_close(struct new_dir *d);
