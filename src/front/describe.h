/* SPDX-License-Identifier: Apache-2.0 */
/* describe.h - an open file of an image, for people: its kind, and what it is, on one line. */
#pragma once
#include <stdio.h>

#include "fdinfo.pb-c.h"

/* "reg", "pipe", ...; "kind 77" for what is not known */
void describe_kind(FdTypes kind, char buf[static 16]);

/* "/var/log/x, write, append, at 120"; without a newline.  Text of the image is made safe for a terminal. */
void describe_file(FILE *out, const FileEntry *file);

/* Text from an image: control characters become \x1b and the like. */
void describe_text(FILE *out, const char *text, size_t len_bytes);
