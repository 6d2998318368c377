/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pipe - an end of an anonymous pipe.
 *
 * Seen in:  the link "pipe:[INODE]"; the buffer is in snapshot->pipes (pipes.h).
 * Made by:  pipe2() once a pipe, and open("/proc/self/fd/N") for further
 *           descriptions of an end.  Those have O_LARGEFILE and can't have
 *           O_DIRECT, the two that pipe2() made are the reverse: a file gets
 *           the one that it was.
 * Image:    file_entry.pipe; contents in pipes-data.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "kernel/sys.h"
#include "resource/pipes.h"

#define KERNEL_O_LARGEFILE 0100000u     /* glibc's is 0 */

extern const struct file_type pipe_type;

struct pipe_end {
	uint32_t pipe;
	bool has_other;                 /* dump: somebody holds the other end */
};

static bool pipe_claims(const struct fd_view *v)
{
	return S_ISFIFO(v->st.st_mode) && strncmp(v->link, "pipe:[", 6) == 0 && !(v->flags & O_PATH);
}

static int pipe_see(const struct fd_view *v, void *state, struct err *err)
{
	struct pipe_end *end = state;
	int events = sys_poll_now(v->fd, 0, err);

	if (events < 0)
		return events;
	/* hung up: nobody writes; an error: nobody reads */
	end->has_other = !(events & (POLLHUP | POLLERR));
	return pipes_see(v, false, &end->pipe, err);
}

/* A pipe to somebody outside comes back with this end alone. */
static int pipe_resolve(struct file *f, const struct snapshot *s, struct err *err)
{
	const struct pipe_end *end = f->state;

	(void)err;
	if (!end->has_other || (f->flags & O_ACCMODE) == O_RDWR)
		return 0;
	for (size_t i = 0; i < s->files.len; i++) {
		const struct file *o = &s->files.at[i];

		if (o->type == &pipe_type && ((const struct pipe_end *)o->state)->pipe == end->pipe &&
		    (o->flags & O_ACCMODE) != (f->flags & O_ACCMODE))
			return 0;
	}
	log_warn("no task of the tree %s pipe:[%llu]: when it is restored nobody does",
		 (f->flags & O_ACCMODE) == O_RDONLY ? "writes to" : "reads", (unsigned long long)f->ino);
	return 0;
}

static void pipe_save(const struct file *f, FileEntry *rec)
{
	const struct pipe_end *end = f->state;
	PipeEntry *body = mem_new(sizeof(*body));

	pipe_entry__init(body);
	body->id = f->id;
	body->pipe_id = end->pipe;
	body->flags = f->flags;
	body->fown = fown_save(&f->fown);
	rec->type = FD_TYPES__PIPE;
	rec->id = f->id;
	rec->pipe = body;
}

static int pipe_load(const FileEntry *rec, struct file *f, struct snapshot *s, struct err *err)
{
	struct pipe_end *end = f->state;
	int r;

	if (!rec->pipe)
		return err_set(err, EBADMSG, "pipe record has no body");
	if ((rec->pipe->flags & O_ACCMODE) == O_ACCMODE)
		return err_set(err, EBADMSG, "pipe record has flags %#o", rec->pipe->flags);
	r = fown_load(rec->pipe->fown, &f->fown, err);
	if (r < 0)
		return r;
	pipes_need(s, rec->pipe->pipe_id, false);
	f->flags = rec->pipe->flags;
	end->pipe = rec->pipe->pipe_id;
	return 0;
}

static int make_both(const struct pipe *p, struct maker *m, struct made_pipe **ret_made, struct err *err)
{
	int fds[2], r;

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, "create");
	own_fd reader = fds[0], writer = fds[1];

	r = pipes_fill(p, writer, err);
	if (r < 0)
		return r;
	struct made_pipe *made = vec_add(&m->pipes);

	*made = (struct made_pipe){ .id = p->id, .read_fd = TAKE_FD(reader), .write_fd = TAKE_FD(writer) };
	*ret_made = made;
	return 0;
}

static int pipe_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	const struct pipe_end *end = f->state;
	const struct pipe *p = snapshot_pipe(m->snapshot, end->pipe, false);
	struct made_pipe *made = pipes_made(m, end->pipe, false);
	unsigned int mode = f->flags & O_ACCMODE;
	int r = 0;

	if (!p)
		return err_set(err, EBADMSG, "there is no pipe %u", end->pipe);
	if (!made)
		r = make_both(p, m, &made, err);
	if (r < 0)
		return r;
	bool *taken = mode == O_RDONLY ? &made->read_taken : &made->write_taken;
	int original = mode == O_RDONLY ? made->read_fd : made->write_fd;

	if (mode == O_RDWR || *taken || (f->flags & KERNEL_O_LARGEFILE))
		return pipes_reopen(original, mode, ret_fd, err);
	r = fcntl(original, F_DUPFD_CLOEXEC, 0);
	if (r < 0)
		return err_sys(err, "duplicate");
	*taken = true;
	*ret_fd = r;
	return 0;
}

static int pipe_save_side(const struct snapshot *s, struct store *store, struct err *err)
{
	return pipes_save(s, false, store, err);
}

static int pipe_load_side(struct snapshot *s, struct store *store, struct err *err)
{
	return pipes_load(s, false, store, err);
}

const struct file_type pipe_type = {
	.name = "pipe",
	.record = FD_TYPES__PIPE,
	.state_size = sizeof(struct pipe_end),
	.claims = pipe_claims,
	.see = pipe_see,
	.resolve = pipe_resolve,
	.save = pipe_save,
	.load = pipe_load,
	.make = pipe_make,
	.save_side = pipe_save_side,
	.load_side = pipe_load_side,
};
