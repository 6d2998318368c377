/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/reserve.h"

#define WORTH_IT (16u << 20)    /* bytes: below that nothing is won */

static uint64_t own_bytes(const struct proc_maps *maps)
{
	uint64_t n = 0;

	for (size_t i = 0; i < maps->len; i++)
		if (maps->at[i].anon_bytes > maps->at[i].shared_bytes)
			n += maps->at[i].anon_bytes - maps->at[i].shared_bytes;
	return n;
}

void reserve_room(const struct look *look, struct store *store, struct reserve *ret_reserve)
{
	*ret_reserve = (struct reserve){ 0 };
	for (size_t i = 0; i < look->tasks.len; i++) {
		uint64_t bytes = own_bytes(&look->tasks.at[i].maps);
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
		vec_push(&ret_reserve->files, ((struct reserved){ look->tasks.at[i].pid, fd }));
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
