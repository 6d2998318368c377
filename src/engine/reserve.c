/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/reserve.h"
#include "kernel/pagemap.h"

#define WORTH_IT (4u << 20)    /* bytes: below that nothing is won */

static uint64_t own_bytes(const struct proc_maps *maps)
{
	uint64_t n = 0;

	for (size_t i = 0; i < maps->len; i++)
		if (maps->at[i].anon_bytes > maps->at[i].shared_bytes)
			n += maps->at[i].anon_bytes - maps->at[i].shared_bytes;
	return n;
}

/* What has changed since the last dump, and an eighth for what will until the tasks stand. */
static uint64_t changed_bytes(const struct tracking *tracking, const struct look_task *look)
{
	struct tracked *task = tracking_of(tracking, look->pid);
	own_fd pagemap = -1;
	struct tracker tracker;
	uint64_t pages = 0;

	if (!task || !task->since_base || pagemap_open(look->pid, &pagemap, &(struct err){ 0 }) < 0 ||
	    !tracking_tracker(tracking, task, pagemap, &tracker))
		return 0;
	for (size_t i = 0; i < look->maps.len; i++)
		if (look->maps.at[i].ino == 0 && !look->maps.at[i].shared)
			pages += tracker_expect(&tracker, look->maps.at[i].start, look->maps.at[i].end, NULL);
	return (pages + pages / 8) * PAGE_BYTES;
}

void reserve_room(const struct look *look, const struct tracking *tracking, struct store *store,
		  struct reserve *ret_reserve)
{
	*ret_reserve = (struct reserve){ 0 };
	for (size_t i = 0; i < look->tasks.len; i++) {
		const struct look_task *task = &look->tasks.at[i];
		uint64_t bytes = tracking->base ? changed_bytes(tracking, task) : own_bytes(&task->maps);
		int fd;

		if (bytes < WORTH_IT)
			continue;
		fd = openat(store_dirfd(store), ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
		if (fd < 0)
			return;         /* not every file system has it */
		if (fallocate(fd, 0, 0, (off_t)bytes) < 0) {
			close(fd);
			continue;
		}
		vec_push(&ret_reserve->files, ((struct reserved){ task->pid, fd }));
	}
}

int reserve_take(struct reserve *r, pid_t pid)
{
	for (size_t i = 0; i < r->files.len; i++)
		if (r->files.at[i].pid == pid) {
			int fd = r->files.at[i].fd;

			r->files.at[i].fd = -1;
			return fd;
		}
	return -1;
}

void reserve_free(struct reserve *r)
{
	for (size_t i = 0; i < r->files.len; i++)
		if (r->files.at[i].fd >= 0)
			close(r->files.at[i].fd);
	vec_free(&r->files);
}
