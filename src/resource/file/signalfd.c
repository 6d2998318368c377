/* SPDX-License-Identifier: Apache-2.0 */
/*
 * signalfd - pending signals read as bytes.
 *
 * It has a mask and nothing else: the signals are those of whoever reads.
 *
 * Seen in:  fdinfo "sigmask" (hex).
 * Made by:  signalfd(mask).
 * Image:    file_entry.sgfd.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>

#include "base/mem.h"
#include "kernel/proc_fdinfo.h"
#include "resource/resource.h"

extern const struct file_type signalfd_type;

struct signalfd { uint64_t mask; };

static bool signalfd_claims(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[signalfd]") == 0;
}

static int signalfd_see(const struct fd_view *v, void *state, struct err *err)
{
	struct signalfd *s = state;

	return fdinfo_u64(v->info, "sigmask", 16, &s->mask, err);
}

static void signalfd_save(const struct file *f, FileEntry *rec)
{
	const struct signalfd *s = f->state;
	SignalfdEntry *body = mem_new(sizeof(*body));

	signalfd_entry__init(body);
	body->id = f->id;
	body->flags = f->flags;
	body->fown = fown_save(&f->fown);
	body->sigmask = s->mask;
	rec->type = FD_TYPES__SIGNALFD;
	rec->id = f->id;
	rec->sgfd = body;
}

static int signalfd_load(const FileEntry *rec, struct file *f, struct snapshot *snapshot, struct err *err)
{
	struct signalfd *s = f->state;
	int r;

	(void)snapshot;
	if (!rec->sgfd)
		return err_set(err, EBADMSG, "signalfd record has no body");
	r = fown_load(rec->sgfd->fown, &f->fown, err);
	if (r < 0)
		return r;
	f->flags = rec->sgfd->flags;
	s->mask = rec->sgfd->sigmask;
	return 0;
}

static int signalfd_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	const struct signalfd *s = f->state;
	sigset_t set;
	int fd;

	(void)m;
	sigemptyset(&set);
	memcpy(&set, &s->mask, sizeof(s->mask));        /* also the two that libc keeps for itself */
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (fd < 0)
		return err_sys(err, "create");
	*ret_fd = fd;
	return 0;
}

const struct file_type signalfd_type = {
	.name = "signalfd",
	.record = FD_TYPES__SIGNALFD,
	.state_size = sizeof(struct signalfd),
	.claims = signalfd_claims,
	.see = signalfd_see,
	.save = signalfd_save,
	.load = signalfd_load,
	.make = signalfd_make,
};
