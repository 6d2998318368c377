/* SPDX-License-Identifier: Apache-2.0 */
/*
 * puncher.h - takes out of pages files what nobody needs.
 *
 *	puncher_need() for each page map whose pages must stay, then puncher_sort()
 *	puncher_look(), puncher_punch() for each file
 *
 * What is needed is a set of places in files (device, inode, offset): whatever
 * names a file has, and however many maps share a page of it, what one of them
 * needs stays.  The rest becomes a hole: the file keeps its size and its
 * offsets, and its blocks go back to the file system.
 */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "base/vec.h"
#include "page/map.h"

struct puncher_range { dev_t dev; ino_t ino; uint64_t start, end; };    /* in bytes */

struct puncher { VEC(struct puncher_range) needed; };

void puncher_need(struct puncher *p, const struct page_map *map);
void puncher_sort(struct puncher *p);
/* After puncher_sort(): is the page at this place needed? */
bool puncher_needs(const struct puncher *p, dev_t dev, ino_t ino, uint64_t at);
void puncher_free(struct puncher *p);

/* *ret_bytes: data of the file that is not needed. */
int puncher_look(const struct puncher *p, int fd, uint64_t *ret_bytes, struct err *err);
/* Punches that.  EOPNOTSUPP, with nothing changed, where the file system has no holes. */
int puncher_punch(const struct puncher *p, int fd, struct err *err);
/* Only asks the file system. */
int puncher_try(int fd, struct err *err);
