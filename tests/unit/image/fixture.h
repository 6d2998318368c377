/* SPDX-License-Identifier: Apache-2.0 */
/* fixture.h - a small directory with an image of every framing, in a temporary place. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "image/store.h"

struct fixture { char dir[64]; struct err err; };

int fixture_setup(void **state);        /* an empty directory */
int fixture_teardown(void **state);     /* removes it with all that is in it */

/* Writes the images; sealed: with checksums. */
void fixture_fill(struct fixture *f, bool sealed);

/* Opens the directory and walks every image in it; the first error, or 0. */
int fixture_read(struct fixture *f);

/* The names of the images: NULL at the end, the checksums' first. */
extern const char *const fixture_images[];
