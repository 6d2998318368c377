/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memfd - a descriptor or a mapping of memory from memfd_create(), or the program of a task that lies in one.
 *
 * Seen in:  the link "/memfd:NAME (deleted)", fdinfo pos; the object itself: shmem.c.
 * Made by:  open() of /proc/self/fd/N, which is the object (maker->shmems), lseek().
 * Image:    file_entry.memfd in files.img; the objects in memfd.img, contents in pagemap-shmem-ID.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "resource/shmem.h"

/* what an open() may bring back; the rest mattered only then, or would do harm now */
#define OPENING (O_ACCMODE | O_PATH | O_SYNC | O_APPEND | O_NOATIME | O_NONBLOCK)

struct memfd {
	uint32_t inode_id;
	uint64_t pos;
};

extern const struct file_type memfd_type;

uint32_t memfd_inode_of(const struct file *f)
{
	return f->type == &memfd_type ? ((const struct memfd *)f->state)->inode_id : 0;
}

static bool memfd_claims(const struct fd_view *v)
{
	return strncmp(v->link, "/memfd:", strlen("/memfd:")) == 0 && S_ISREG(v->st.st_mode);
}

static int memfd_see(const struct fd_view *v, void *state, struct err *err)
{
	struct memfd *s = state;

	s->pos = v->pos;
	return shmem_see(v, &s->inode_id, err);
}

static void memfd_save(const struct file *f, FileEntry *rec)
{
	const struct memfd *s = f->state;
	MemfdFileEntry *e = mem_new(sizeof(*e));

	memfd_file_entry__init(e);
	e->id = f->id;
	e->flags = f->flags;
	e->pos = s->pos;
	e->fown = fown_save(&f->fown);
	e->inode_id = s->inode_id;
	rec->memfd = e;
}

static int memfd_load(const FileEntry *rec, struct file *f, struct snapshot *s, struct err *err)
{
	const MemfdFileEntry *e = rec->memfd;

	if (!e)
		return err_set(err, EBADMSG, "memfd record has no body");
	if (!snapshot_memfd(s, e->inode_id))
		return err_set(err, EBADMSG, "memfd %u is not in memfd.img", e->inode_id);
	if (e->pos > INT64_MAX)
		return err_set(err, EBADMSG, "memfd %u: position %#llx", e->inode_id, (unsigned long long)e->pos);
	f->flags = e->flags;
	*(struct memfd *)f->state = (struct memfd){ .inode_id = e->inode_id, .pos = e->pos };
	return fown_load(e->fown, &f->fown, err);
}

static int memfd_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	const struct memfd *s = f->state;
	const struct shmem *o = snapshot_memfd(m->snapshot, s->inode_id);
	own_fd fd = -1;
	int r = shmem_open(m->shmems.at[o - m->snapshot->shmems.at], f->flags & OPENING, &fd, err);

	if (r < 0)
		return r;
	if (s->pos > 0 && !(f->flags & O_PATH) && lseek(fd, (off_t)s->pos, SEEK_SET) < 0)
		return err_sys(err, "seek to %llu", (unsigned long long)s->pos);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

const struct file_type memfd_type = {
	.name = "memfd",
	.lost = "access and change times",
	.record = FD_TYPES__MEMFD,
	.state_size = sizeof(struct memfd),
	.claims = memfd_claims,
	.see = memfd_see,
	.save = memfd_save,
	.load = memfd_load,
	.make = memfd_make,
	.save_side = shmem_save,
	.load_side = shmem_load,
};
