/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eventfd - a 64-bit counter behind a descriptor.
 *
 * Seen in:  fdinfo "eventfd-count" (hex), "eventfd-semaphore" (kernels from 6.5).
 * Made by:  eventfd(0) and one write: its argument has only 32 bits.
 * Image:    file_entry.efd; semaphore mode in a field of ours.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc_fdinfo.h"
#include "resource/resource.h"

extern const struct file_type eventfd_type;

struct eventfd {
	uint64_t count;
	bool semaphore;
};

static bool eventfd_claims(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[eventfd]") == 0;
}

static int eventfd_see(const struct fd_view *v, void *state, struct err *err)
{
	uint64_t count, semaphore = 0;
	int r = fdinfo_u64(v->info, "eventfd-count", 16, &count, err);

	if (r == 0 && fdinfo_has(v->info, "eventfd-semaphore"))
		r = fdinfo_u64(v->info, "eventfd-semaphore", 10, &semaphore, err);
	if (r < 0)
		return r;
	if (count == UINT64_MAX)
		return err_set(err, EOPNOTSUPP, "eventfd counter has overflowed");
	*(struct eventfd *)state = (struct eventfd){ .count = count, .semaphore = semaphore != 0 };
	return 0;
}

static void eventfd_save(const struct file *f, FileEntry *rec)
{
	const struct eventfd *e = f->state;
	EventfdFileEntry *body = mem_new(sizeof(*body));

	eventfd_file_entry__init(body);
	body->id = f->id;
	body->flags = f->flags;
	body->fown = fown_save(&f->fown);
	body->counter = e->count;
	body->has_semaphore = body->semaphore = e->semaphore;
	rec->type = FD_TYPES__EVENTFD;
	rec->id = f->id;
	rec->efd = body;
}

static int eventfd_load(const FileEntry *rec, struct file *f, struct snapshot *s, struct err *err)
{
	int r;

	(void)s;
	if (!rec->efd)
		return err_set(err, EBADMSG, "eventfd record has no body");
	if (rec->efd->counter == UINT64_MAX)
		return err_set(err, EBADMSG, "eventfd counter is out of range");
	r = fown_load(rec->efd->fown, &f->fown, err);
	if (r < 0)
		return r;
	f->flags = rec->efd->flags;
	*(struct eventfd *)f->state = (struct eventfd){ .count = rec->efd->counter, .semaphore = rec->efd->semaphore };
	return 0;
}

static int eventfd_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	const struct eventfd *e = f->state;
	own_fd fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (e->semaphore ? EFD_SEMAPHORE : 0));

	(void)m;
	if (fd < 0)
		return err_sys(err, "create");
	if (e->count > 0 && write(fd, &e->count, sizeof(e->count)) != sizeof(e->count))
		return err_sys(err, "set the counter to %llu", (unsigned long long)e->count);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

const struct file_type eventfd_type = {
	.name = "eventfd",
	.lost = "semaphore mode, on kernels before 6.5",
	.record = FD_TYPES__EVENTFD,
	.state_size = sizeof(struct eventfd),
	.claims = eventfd_claims,
	.see = eventfd_see,
	.save = eventfd_save,
	.load = eventfd_load,
	.make = eventfd_make,
};
