/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ends.h - the sources and sinks of pages.
 *
 * Each is a plain struct on its user's stack, set up by its _init function and
 * handed to the pump as &x.base.  Descriptors stay the caller's unless said.
 */
#pragma once
#include <sys/types.h>

#include "base/vec.h"
#include "image/store.h"
#include "page/map.h"
#include "page/page.h"

struct page_runs { struct page_run *at; size_t len, cap; };     /* a VEC */

/* The memory of a task that stands still; the plan says what is wanted. */
struct source_task {
	struct page_source base;
	pid_t pid;
	int mem_fd;                     /* /proc/PID/mem, for what is mapped without read rights */
	const struct page_runs *plan;
	size_t next;
};
void source_task_init(struct source_task *s, pid_t pid, int mem_fd, const struct page_runs *plan);

/* A file or memory object: `from` of a run is the offset in it; it may end within the last page. */
struct source_file {
	struct page_source base;
	int fd;
	const struct page_runs *plan;
	size_t next;
};
void source_file_init(struct source_file *s, int fd, const struct page_runs *plan);

/* Pieces of an image, through its chain. */
struct source_map {
	struct page_source base;
	const struct page_map *map;
	size_t next;
};
void source_map_init(struct source_map *s, const struct page_map *map);

/* A pagemap image and its pages file. */
struct sink_image {
	struct page_sink base;
	struct image_writer *writer;
	int pages_fd;
	uint64_t end;                   /* bytes placed in the pages file */
	struct page_run open;           /* the entry being grown */
	struct page_runs *placed;       /* optional: notes what goes into the pages file */
};
/* reserved_fd: a file without a name that becomes the pages file, taken over; -1: a new one. */
int sink_image_open(struct sink_image *s, struct store *store, enum image_kind kind, uint64_t id,
		    uint32_t pages_id, int reserved_fd, struct err *err);
/* Writes the last entry and closes; call once, after a failure of the pump too. */
int sink_image_close(struct sink_image *s, struct err *err);

/* The final places of a vessel. */
struct sink_task {
	struct page_sink base;
	pid_t pid;
	int mem_fd;                     /* for what is mapped without write rights */
};
void sink_task_init(struct sink_task *s, pid_t pid, int mem_fd);

/* A file or memory object, addressed by run.start. */
struct sink_file {
	struct page_sink base;
	int fd;
};
void sink_file_init(struct sink_file *s, int fd);
