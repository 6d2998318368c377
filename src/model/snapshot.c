/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "model/snapshot.h"

void thread_free(struct thread *t)
{
	free(t->xsave);
	vec_free(&t->affinity);
	vec_free(&t->creds.groups);
	vec_free(&t->pending);
}

static void task_free(struct task *t)
{
	for (size_t i = 0; i < t->threads.len; i++)
		thread_free(&t->threads.at[i]);
	vec_free(&t->threads);
	vec_free(&t->fds);
	vec_free(&t->timers);
	vec_free(&t->pending);
	vec_free(&t->mm.vmas);
	vec_free(&t->mm.auxv);
}

void snapshot_free(struct snapshot *s)
{
	for (size_t i = 0; i < s->tasks.len; i++)
		task_free(&s->tasks.at[i]);
	for (size_t i = 0; i < s->files.len; i++) {
		if (s->files.at[i].drop)
			s->files.at[i].drop(s->files.at[i].state);
		free(s->files.at[i].state);
	}
	for (size_t i = 0; i < s->pipes.len; i++) {
		free(s->pipes.at[i].data);
		vec_free(&s->pipes.at[i].packets);
	}
	for (size_t i = 0; i < s->ghosts.len; i++)
		vec_free(&s->ghosts.at[i].files);
	for (size_t i = 0; i < s->packets.len; i++)
		free(s->packets.at[i].bytes);
	for (size_t i = 0; i < s->shmems.len; i++)
		free(s->shmems.at[i].name);
	vec_free(&s->packets);
	vec_free(&s->tasks);
	vec_free(&s->files);
	vec_free(&s->shmems);
	vec_free(&s->pipes);
	vec_free(&s->ghosts);
}

struct task *snapshot_task(const struct snapshot *s, pid_t pid)
{
	for (size_t i = 0; i < s->tasks.len; i++)
		if (s->tasks.at[i].pid == pid)
			return &s->tasks.at[i];
	return NULL;
}

/* Ids rise: they are given out in order on dump, and sorted when loaded. */
struct file *snapshot_file(const struct snapshot *s, uint32_t id)
{
	size_t low = 0, high = s->files.len;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (s->files.at[mid].id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low < s->files.len && s->files.at[low].id == id ? &s->files.at[low] : NULL;
}

struct pipe *snapshot_pipe(const struct snapshot *s, uint32_t id, bool fifo)
{
	for (size_t i = 0; i < s->pipes.len; i++)
		if (s->pipes.at[i].id == id && s->pipes.at[i].fifo == fifo)
			return &s->pipes.at[i];
	return NULL;
}

struct ghost *snapshot_ghost(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; i < s->ghosts.len; i++)
		if (s->ghosts.at[i].id == id)
			return &s->ghosts.at[i];
	return NULL;
}

struct ghost *snapshot_ghost_of(const struct snapshot *s, uint32_t file)
{
	for (size_t i = 0; i < s->ghosts.len; i++)
		for (size_t k = 0; k < s->ghosts.at[i].files.len; k++)
			if (s->ghosts.at[i].files.at[k] == file)
				return &s->ghosts.at[i];
	return NULL;
}

struct shmem *snapshot_memfd(const struct snapshot *s, uint32_t inode_id)
{
	for (size_t i = 0; i < s->shmems.len && inode_id; i++)
		if (s->shmems.at[i].inode_id == inode_id)
			return &s->shmems.at[i];
	return NULL;
}

uint64_t snapshot_shmem_id(const struct snapshot *s, ino_t ino)
{
	uint32_t id = (uint32_t)ino;    /* images have no more of a memfd's */

	for (size_t i = 0; i < s->shmems.len; i++)
		if (s->shmems.at[i].id == id || id == 0)
			return snapshot_shmem_id(s, id + 1);
	return id ? id : 1;
}

struct shmem *snapshot_shmem(const struct snapshot *s, dev_t dev, ino_t ino)
{
	for (size_t i = 0; i < s->shmems.len; i++)
		if (s->shmems.at[i].dev == dev && s->shmems.at[i].ino == ino)
			return &s->shmems.at[i];
	return NULL;
}

bool snapshot_shares_table(const struct snapshot *s, const struct task *t)
{
	for (const struct task *o = s->tasks.at; o < t && t->state != TASK_ZOMBIE; o++)
		if (o->state != TASK_ZOMBIE && o->files_id == t->files_id)
			return true;
	return false;
}
