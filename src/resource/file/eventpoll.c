/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eventpoll - an epoll and the files that it watches.
 *
 * A target is an open file and the number that it was added under.  The file
 * may have lost that number since (closed, or given to another file) as long as
 * it is open elsewhere: so `resolve` asks the kernel (kcmp) which file it is.
 *
 * Seen in:  fdinfo, one line a target: "tfd: N events: X data: X pos: N ino: X sdev: X".
 * Made by:  epoll_create1(), empty; `attach` puts each target at its number for a moment and adds it.
 * Image:    file_entry.epfd; the target's file id in a field of ours.  Others name it by number alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/sys.h"
#include "resource/resource.h"

#define EVENTS_ALL (EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLMSG)
/* What stays set in a one-shot target that has fired. */
#define EVENTS_MODES (EPOLLEXCLUSIVE | EPOLLWAKEUP | EPOLLONESHOT | EPOLLET)

extern const struct file_type eventpoll_type;

struct target {
	int fd;                         /* its number when it was added */
	uint32_t events;
	uint64_t data;
	uint32_t dev;                   /* in the kernel's own form */
	uint64_t ino;
	bool known;                     /* file is set */
	uint32_t file;
};

struct eventpoll { VEC(struct target) targets; };

static bool eventpoll_claims(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[eventpoll]") == 0;
}

static void eventpoll_drop(void *state)
{
	struct eventpoll *e = state;

	vec_free(&e->targets);
}

static int see_target(const struct fdinfo_line *line, struct target *ret, struct err *err)
{
	uint64_t fd, events, data, ino, dev;
	int r;

	r = fdinfo_line_u64(line, "", 10, &fd, err);
	if (r == 0)
		r = fdinfo_line_u64(line, "events", 16, &events, err);
	if (r == 0)
		r = fdinfo_line_u64(line, "data", 16, &data, err);
	if (r == 0)
		r = fdinfo_line_u64(line, "ino", 16, &ino, err);
	if (r == 0)
		r = fdinfo_line_u64(line, "sdev", 16, &dev, err);
	if (r < 0)
		return r;
	*ret = (struct target){
		.fd = (int)fd, .events = (uint32_t)events, .data = data, .dev = (uint32_t)dev, .ino = ino,
	};
	return 0;
}

static int eventpoll_see(const struct fd_view *v, void *state, struct err *err)
{
	struct eventpoll e = { 0 };
	struct fdinfo_line line;
	int r = 0;

	for (const char *at = v->info; r == 0 && fdinfo_next(&at, "tfd:", &line);)
		r = see_target(&line, vec_add(&e.targets), err);
	if (r < 0)
		eventpoll_drop(&e);
	else
		*(struct eventpoll *)state = e;
	return r;
}

static const struct fd_slot *slot_of(const struct task *t, int fd)
{
	size_t low = 0, high = t->fds.len;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (t->fds.at[mid].fd < fd)
			low = mid + 1;
		else
			high = mid;
	}
	return low < t->fds.len && t->fds.at[low].fd == fd ? &t->fds.at[low] : NULL;
}

/* A socket's inode belongs to one open file, whatever numbers it has. */
static bool is_socket(const struct file *f, const struct target *t)
{
	int record = f->type->record;

	return f->ino == t->ino && f->dev == proc_kdev(t->dev) &&
	       (record == FD_TYPES__UNIXSK || record == FD_TYPES__INETSK);
}

/* 1: the index-th target of epoll `f` is what that task has as that descriptor; 0: it is another file. */
static int is_target(const struct file *f, size_t index, pid_t pid, int fd, struct err *err)
{
	const struct eventpoll *e = f->state;
	struct sys_kcmp_epoll slot = { .efd = (uint32_t)f->fd, .tfd = (uint32_t)e->targets.at[index].fd };
	int r;

	for (size_t i = 0; i < index; i++)
		slot.toff += e->targets.at[i].fd == e->targets.at[index].fd;
	r = sys_kcmp(pid, f->pid, SYS_KCMP_EPOLL_TFD, (uint64_t)fd, (uint64_t)(uintptr_t)&slot, err);
	return r < 0 ? r : r == 0;
}

/* The file that has the number now, or any other with that inode. */
static int find_target(const struct file *f, const struct snapshot *s, size_t index, uint32_t *ret_id, struct err *err)
{
	const struct eventpoll *e = f->state;
	const struct target *t = &e->targets.at[index];
	const struct task *holder = snapshot_task(s, f->pid);
	const struct fd_slot *slot = holder ? slot_of(holder, t->fd) : NULL;
	const struct file *now = slot ? snapshot_file(s, slot->file) : NULL, *found = now;
	int r = now ? is_socket(now, t) : 0;

	if (r == 0 && now)
		r = is_target(f, index, f->pid, t->fd, err);
	for (size_t i = 0; i < s->files.len && r == 0; i++) {
		found = &s->files.at[i];
		if (found != now && found->fd >= 0 && found->ino == t->ino && found->dev == proc_kdev(t->dev))
			r = is_target(f, index, found->pid, found->fd, err);
	}
	if (r > 0)
		*ret_id = found->id;
	return r;
}

static int eventpoll_resolve(struct file *f, const struct snapshot *s, struct err *err)
{
	struct eventpoll *e = f->state;

	for (size_t i = 0; i < e->targets.len; i++) {
		struct target *t = &e->targets.at[i];
		int r = find_target(f, s, i, &t->file, err);

		if (r < 0)
			return r;
		if (r == 0)
			return err_set(err, EOPNOTSUPP, "epoll watches a file (descriptor %d when it was added) "
				       "that no task of the tree has open", t->fd);
		t->known = true;
	}
	return 0;
}

static void eventpoll_save(const struct file *f, FileEntry *rec)
{
	const struct eventpoll *e = f->state;
	EventpollFileEntry *body = mem_new(sizeof(*body));

	eventpoll_file_entry__init(body);
	body->id = f->id;
	body->flags = f->flags;
	body->fown = fown_save(&f->fown);
	body->tfd = mem_new(e->targets.len * sizeof(*body->tfd));
	for (size_t i = 0; i < e->targets.len; i++) {
		const struct target *t = &e->targets.at[i];
		EventpollTfdEntry *to = mem_new(sizeof(*to));

		eventpoll_tfd_entry__init(to);
		to->id = f->id;
		to->tfd = (uint32_t)t->fd;
		to->events = t->events;
		to->data = t->data;
		to->has_dev = to->has_inode = true;
		to->dev = t->dev;
		to->inode = t->ino;
		to->has_file_id = t->known;
		to->file_id = t->file;
		body->tfd[body->n_tfd++] = to;
	}
	rec->type = FD_TYPES__EVENTPOLL;
	rec->id = f->id;
	rec->epfd = body;
}

static int eventpoll_load(const FileEntry *rec, struct file *f, struct snapshot *s, struct err *err)
{
	struct eventpoll *e = f->state;
	int r;

	(void)s;
	if (!rec->epfd)
		return err_set(err, EBADMSG, "eventpoll record has no body");
	for (size_t i = 0; i < rec->epfd->n_tfd; i++)
		if (rec->epfd->tfd[i]->tfd > INT32_MAX)
			return err_set(err, EBADMSG, "epoll watches descriptor %u", rec->epfd->tfd[i]->tfd);
	r = fown_load(rec->epfd->fown, &f->fown, err);
	if (r < 0)
		return r;
	f->flags = rec->epfd->flags;
	for (size_t i = 0; i < rec->epfd->n_tfd; i++) {
		const EventpollTfdEntry *t = rec->epfd->tfd[i];

		vec_push(&e->targets, ((struct target){
			.fd = (int)t->tfd, .events = t->events, .data = t->data, .dev = t->dev, .ino = t->inode,
			.known = t->has_file_id, .file = t->file_id,
		}));
	}
	return 0;
}

static int eventpoll_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	int fd = epoll_create1(EPOLL_CLOEXEC);

	(void)f;
	(void)m;
	if (fd < 0)
		return err_sys(err, "create");
	*ret_fd = fd;
	return 0;
}

static bool has_file(const struct task *t, uint32_t id)
{
	for (size_t i = 0; i < t->fds.len; i++)
		if (t->fds.at[i].file == id)
			return true;
	return false;
}

/* Which file: by id, or else what has the number in a task that has the epoll. */
static int file_of_target(const struct file *f, const struct snapshot *s, const struct target *t, uint32_t *ret_id,
			  struct err *err)
{
	if (t->known) {
		*ret_id = t->file;
		return 0;
	}
	for (size_t i = 0; i < s->tasks.len; i++) {
		const struct fd_slot *slot = slot_of(&s->tasks.at[i], t->fd);

		if (slot && has_file(&s->tasks.at[i], f->id)) {
			*ret_id = slot->file;
			return 0;
		}
	}
	return err_set(err, EBADMSG, "epoll watches descriptor %d, which no task with that epoll has", t->fd);
}

static int made_fd(const struct maker *m, uint32_t id, int *ret_fd, struct err *err)
{
	const struct file *f = snapshot_file(m->snapshot, id);
	size_t index = f ? (size_t)(f - m->snapshot->files.at) : m->fds.len;

	if (index >= m->fds.len || m->fds.at[index] < 0)
		return err_set(err, EBADMSG, "epoll watches file %u, which is not there", id);
	*ret_fd = m->fds.at[index];
	return 0;
}

/*
 * A one-shot target that has fired waits for nothing until it is armed again,
 * but adding one always arms it for errors and hang-ups.  So it is made to fire:
 * most files are ready for something.
 */
static int add_fired(int ep, const struct target *t, struct err *err)
{
	struct epoll_event all = { .events = t->events | EVENTS_ALL, .data.u64 = t->data };
	struct epoll_event none = { .events = t->events, .data.u64 = t->data }, got;
	int r = epoll_ctl(ep, EPOLL_CTL_ADD, t->fd, &all);

	if (r == 0 && epoll_wait(ep, &got, 1, 0) == 0)
		r = epoll_ctl(ep, EPOLL_CTL_MOD, t->fd, &none);
	return r < 0 ? err_sys(err, "watch descriptor %d", t->fd) : 0;
}

static int add(int ep, const struct target *t, struct err *err)
{
	struct epoll_event event = { .events = t->events, .data.u64 = t->data };

	if (epoll_ctl(ep, EPOLL_CTL_ADD, t->fd, &event) < 0)
		return err_sys(err, "watch descriptor %d", t->fd);
	return 0;
}

static bool has_fired(const struct target *t)
{
	return (t->events & EPOLLONESHOT) && !(t->events & ~EVENTS_MODES);
}

/* Puts the file at its number, adds it, and puts back what was there. */
static int attach_target(const struct file *f, struct maker *m, int ep, const struct target *t, struct err *err)
{
	uint32_t id;
	int fd, r;

	r = file_of_target(f, m->snapshot, t, &id, err);
	if (r == 0)
		r = made_fd(m, id, &fd, err);
	if (r != 0)
		return r;
	own_fd before = fcntl(t->fd, F_DUPFD_CLOEXEC, 0);       /* -1: nothing was */

	if (fd != t->fd && dup3(fd, t->fd, O_CLOEXEC) < 0)
		return err_sys(err, "put a file at descriptor %d", t->fd);
	if (ep == t->fd)
		ep = before;
	r = has_fired(t) ? add_fired(ep, t, err) : add(ep, t, err);
	if (before < 0)
		(void)close(t->fd);
	else if (fd != t->fd && dup3(before, t->fd, O_CLOEXEC) < 0)
		return err_sys(err, "put descriptor %d back", t->fd);
	return r;
}

static int eventpoll_attach(const struct file *f, struct maker *m, struct err *err)
{
	const struct eventpoll *e = f->state;
	int ep, r;

	r = made_fd(m, f->id, &ep, err);
	/* those that have fired go first: nothing else may be ready when they fire */
	for (int fired = 1; fired >= 0; fired--)
		for (size_t i = 0; i < e->targets.len && r == 0; i++)
			if (has_fired(&e->targets.at[i]) == fired)
				r = attach_target(f, m, ep, &e->targets.at[i], err);
	return r;
}

const struct file_type eventpoll_type = {
	.name = "eventpoll",
	.lost = "that an edge was seen (it is told again); that a one-shot target has fired, if nothing can be read or written",
	.record = FD_TYPES__EVENTPOLL,
	.state_size = sizeof(struct eventpoll),
	.claims = eventpoll_claims,
	.see = eventpoll_see,
	.resolve = eventpoll_resolve,
	.save = eventpoll_save,
	.load = eventpoll_load,
	.make = eventpoll_make,
	.attach = eventpoll_attach,
	.drop = eventpoll_drop,
};
