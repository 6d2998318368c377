/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aside.h - pages of a task as they were at one moment, though it has run on since.
 *
 *	                      +-- about to change: aside_put() ---> memory, file --+
 *	pages, protected -----+                                                    +--> source_past --> pump
 *	                      +-- not yet changed -----------------------------------+
 *
 * They wait in memory, and beyond 8 MiB a thread takes them to a file meanwhile: who puts has a program waiting, and
 * a file on a busy disk may take its time.
 *
 * The rule that makes it exact: a page is let go for writing only after it was
 * put aside.  So whoever has read a page and finds afterwards that it was not
 * put aside has read what it was; else he takes what was put aside.
 *
 * Any thread may put and take.  A failure of a put (no room) is remembered:
 * aside_failed(), for who puts has a program waiting and can't stop for it.
 */
#pragma once
#include <pthread.h>

#include "page/ends.h"

/* Where pages are; in blocks, so that no step takes long: 0: not put aside, else offset and one. */
struct aside_block {
	taddr base;
	uint64_t at[512];
};

struct aside {
	pid_t pid;
	int mem_fd, file;               /* owned */
	uint8_t *room;                  /* owned: what was put aside last, by offset modulo its size; what is older is in the file */
	pthread_t spiller;              /* takes it there */
	bool spills, quit;
	pthread_mutex_t putting, lock;  /* who puts; all below */
	pthread_cond_t news;            /* of `end`, `spilled`, an end */
	struct aside_block **blocks;    /* by hash; owned */
	size_t cap, len;
	uint64_t end, spilled;          /* bytes put aside, and how many of them are in the file */
	int failed;
	struct err why;
};

/* dirfd: where the file gets its room. */
int aside_init(struct aside *a, pid_t pid, int dirfd, struct err *err);
void aside_free(struct aside *a);

/* Copies those pages that were not put aside before. */
void aside_put(struct aside *a, taddr start, uint64_t pages);

/* What was put aside so far, added to `out`, rising. */
void aside_list(struct aside *a, struct page_runs *out);

/* 0, or the first failure. */
int aside_failed(struct aside *a, struct err *err);

/*
 * A task's pages as they were: read from the task, mended with what was put aside.  Pages may vanish from the task,
 * but only after they were put aside.  uffd: what was read may be written to from then on; -1: not yet.
 */
struct source_past {
	struct page_source base;
	struct source_task task;
	struct aside *aside;
	int uffd;
};
void source_past_init(struct source_past *s, struct aside *a, const struct page_runs *plan, int uffd);
