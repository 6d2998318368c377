/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ends.h - the sources and sinks of pages.
 *
 * Each is a plain struct on its user's stack, set up by its _init function and
 * handed to the pump as &x.base.  Descriptors stay the caller's unless said.
 */
#pragma once
#include <pthread.h>
#include <sys/types.h>

#include "base/vec.h"
#include "image/store.h"
#include "page/entries.h"
#include "page/map.h"
#include "page/page.h"
#include "page/runs.h"
#include "page/sums.h"
#include "wire/ps_client.h"

/* The memory of a task; the plan says what is wanted, and of what may vanish meanwhile. */
struct source_task {
	struct page_source base;
	pid_t pid;
	int mem_fd;                     /* /proc/PID/mem, for what is mapped without read rights */
	const struct page_runs *plan;
	size_t next;
	bool zero_lost;                 /* what is gone before it was read is zeros */
	/* optional: told, by any thread, of a page that was gone before it was read */
	void (*lost)(void *arg, taddr page);
	void *lost_arg;
};
void source_task_init(struct source_task *s, pid_t pid, int mem_fd, const struct page_runs *plan);

/* A file or memory object: `from` of a run is the offset in it; it may end within the last page. */
struct source_file {
	struct page_source base;
	int fd;
	const struct page_runs *plan;
	size_t next;
	bool may_shrink;                /* somebody may cut it while it is read: what is there no more is zeros */
};
void source_file_init(struct source_file *s, int fd, const struct page_runs *plan);

/* Pieces of an image, through its chain; what has checksums is checked. */
struct source_map {
	struct page_source base;
	const struct page_map *map;
	const struct page_runs *plan;   /* optional: what of it; `part` is a file, `from` an offset in it */
	size_t next;
};
void source_map_init(struct source_map *s, const struct page_map *map);

/* A pagemap image, its pages file, and the sums of that. */
struct sink_image {
	struct page_sink base;
	struct store *store;
	struct page_entries entries;
	uint32_t pages_id;
	int pages_fd;
	struct page_sum_list sums;
	uint64_t end;                   /* bytes placed in the pages file */
	struct page_runs *placed;       /* optional: notes what goes into the pages file */
	const struct page_map *parent;  /* optional: what the parent directory has, for runs that ask for a comparison */
};
/* reserved_fd: a file without a name that becomes the pages file, taken over; -1: a new one. */
int sink_image_open(struct sink_image *s, struct store *store, enum image_kind kind, uint64_t id,
		    uint32_t pages_id, int reserved_fd, struct err *err);
/* Writes the last entry and closes; call once, after a failure of the pump too. */
int sink_image_close(struct sink_image *s, struct err *err);

/*
 * A page server.  Runs go in order, each as it comes: one worker of the pump reads memory while another one sends.
 * What the server has of it then is noted in an image of our own (IMAGE_FERRY_SENT, IMAGE_FERRY_SENT_SHMEM), for a next
 * dump: page_map_load_sent().
 */
struct sink_server {
	struct page_sink base;
	struct ps_client *client;
	enum ps_type type;
	uint64_t id;
	struct page_entries sent;
	pthread_mutex_t lock;
	pthread_cond_t turn;
	uint64_t placed, put;           /* runs */
	int failed;
	struct err why;
};
/* kind: IMAGE_PAGEMAP or IMAGE_PAGEMAP_SHMEM.  on_parent: some runs may be the parent's. */
int sink_server_open(struct sink_server *s, struct ps_client *client, struct store *store, enum image_kind kind, uint64_t id,
		     bool on_parent, struct err *err);
/* Call once, after a failure of the pump too. */
int sink_server_close(struct sink_server *s, struct err *err);

/* The final places of a vessel. */
struct sink_task {
	struct page_sink base;
	pid_t pid;
	int uffd;                       /* optional, else -1: puts pages where nothing is yet (run.may_skip_zero) */
	int mem_fd;                     /* for what is mapped without write rights, and to compare */
};
void sink_task_init(struct sink_task *s, pid_t pid, int mem_fd);

/* A file or memory object, addressed by run.start. */
struct sink_file {
	struct page_sink base;
	int fd;
};
void sink_file_init(struct sink_file *s, int fd);
