/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tracked.h - ways in which memory changes between two dumps, a row each.
 *
 *	tracked ROW [FILE]      in a directory of its own
 *
 * A row fills memory, and calls next(): the test takes a link. It changes the
 * memory, and calls next(): more links, and other lives. It checks that its memory is what it knows, from what
 * is written in its code alone. FILE is one on a disk's file system, full of what file_page() tells.
 *
 * The board: DONE is how often next() was called, or what follows the last check; GO is how often it may return;
 * SKIP says that this kernel lacks what the row is about.
 */
#ifndef FERRY_TESTS_TRACKED_H
#define FERRY_TESTS_TRACKED_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "board.h"

enum { DONE = BOARD_FIRST, GO, SKIP, KID };

#define PAGE 4096ul
#define CHECK(ok) board_check(board, ok)

extern board_slot *board;
extern const char *disk_file;

extern uint64_t stage;          /* that was reached last */
void next(void);
/* The calling process, a child of the row's, waits for stage n. */
void wait_stage(uint64_t n);
void skip(const char *why);

char *anon(size_t pages);
char *anon_at(void *at, size_t pages);
/* Pages [from, to): what generation `gen` has there; 0: zeroes. */
void fill(char *mem, size_t from, size_t to, uint64_t gen);
bool has(const char *mem, size_t from, size_t to, uint64_t gen);
bool page_has(const char *page, size_t index, uint64_t gen);
int memfd_of(size_t pages, uint64_t gen);

struct row { const char *name; void (*run)(void); };
extern const struct row map_rows[], share_rows[], io_rows[];

#endif
