/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fifo - an open named pipe.
 *
 * Seen in:  a FIFO's inode behind a path; the buffer is in snapshot->pipes.
 * Made by:  open(PATH, O_RDWR), which never waits for another end and is kept
 *           until all are made, then open("/proc/self/fd/N") with the right
 *           access.  A FIFO that holds data already was kept open by somebody
 *           else: what it held is still in it, nothing is written.
 * Image:    file_entry.fifo and a file_entry.reg of its own, with path, flags
 *           and owner, that regf_id names; contents in fifo-data.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/mem.h"
#include "base/log.h"
#include "base/own.h"
#include "image/record.h"
#include "resource/pipes.h"

extern const struct file_type fifo_type;

struct fifo {
	uint32_t pipe;
	uint32_t mode;
	char *path;
};

static bool fifo_claims(const struct fd_view *v)
{
	return S_ISFIFO(v->st.st_mode) && strncmp(v->link, "pipe:[", 6) != 0 && !(v->flags & O_PATH);
}

static int fifo_see(const struct fd_view *v, void *state, struct err *err)
{
	struct fifo *fifo = state;
	struct stat st;
	int r;

	if (v->link[0] != '/' || lstat(v->link, &st) < 0 || st.st_dev != v->st.st_dev || st.st_ino != v->st.st_ino)
		return err_set(err, EOPNOTSUPP, "FIFO %s: its name is gone or leads elsewhere, that is not handled yet",
			       v->link);
	r = pipes_see(v, true, &fifo->pipe, err);
	if (r < 0)
		return r;
	fifo->mode = v->st.st_mode;
	fifo->path = mem_str(v->link);
	return 0;
}

static void fifo_save(const struct file *f, FileEntry *rec)
{
	const struct fifo *fifo = f->state;
	FifoEntry *body = mem_new(sizeof(*body));

	fifo_entry__init(body);
	body->id = f->id;
	body->pipe_id = fifo->pipe;
	body->has_regf_id = true;
	body->regf_id = f->id | FILE_ID_ALSO;
	rec->type = FD_TYPES__FIFO;
	rec->id = f->id;
	rec->fifo = body;
}

static void fifo_save_also(const struct file *f, FileEntry *rec)
{
	const struct fifo *fifo = f->state;
	RegFileEntry *body = mem_new(sizeof(*body));

	reg_file_entry__init(body);
	body->id = f->id | FILE_ID_ALSO;
	body->flags = f->flags;
	body->fown = fown_save(&f->fown);
	body->name = mem_str(fifo->path);
	body->has_mode = true;
	body->mode = fifo->mode;
	rec->type = FD_TYPES__REG;
	rec->id = body->id;
	rec->reg = body;
}

/* Its regular file: the record that comes first. */
static const struct file *file_of(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; i < s->files.len; i++)
		if (s->files.at[i].id == id && s->files.at[i].type && s->files.at[i].type->record == FD_TYPES__REG)
			return &s->files.at[i];
	return NULL;
}

static int fifo_load(const FileEntry *rec, struct file *f, struct snapshot *s, struct err *err)
{
	struct fifo *fifo = f->state;
	const struct file *reg;

	if (!rec->fifo || !rec->fifo->has_regf_id)
		return err_set(err, EBADMSG, "FIFO record has no body or no file");
	reg = file_of(s, rec->fifo->regf_id);
	if (!reg)
		return err_set(err, EBADMSG, "FIFO names file %u, which is no regular file before it", rec->fifo->regf_id);
	/* what its kind keeps and how is not our business: it tells by saving it again */
	own_message FileEntry *also = mem_new(sizeof(*also));

	file_entry__init(also);
	reg->type->save(reg, also);
	if (!also->reg || also->reg->name[0] != '/' || (reg->flags & O_ACCMODE) == O_ACCMODE)
		return err_set(err, EBADMSG, "FIFO has no path, or flags %#o", reg->flags);
	pipes_need(s, rec->fifo->pipe_id, true);
	f->flags = reg->flags;
	f->fown = reg->fown;
	*fifo = (struct fifo){
		.pipe = rec->fifo->pipe_id, .mode = also->reg->mode, .path = TAKE_PTR(also->reg->name),
	};
	return 0;
}

static int make_first(const struct fifo *fifo, struct maker *m, struct made_pipe **ret_made, struct err *err)
{
	const struct pipe *p = snapshot_pipe(m->snapshot, fifo->pipe, true);
	own_fd fd = open(fifo->path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
	struct stat st;
	int bytes, r = 0;

	if (!p)
		return err_set(err, EBADMSG, "there is no FIFO %u", fifo->pipe);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "open %s", fifo->path);
	if (!S_ISFIFO(st.st_mode))
		return err_set(err, ESTALE, "%s is no FIFO any more", fifo->path);
	if (ioctl(fd, FIONREAD, &bytes) < 0)
		return err_sys(err, "look into %s", fifo->path);
	if (bytes == 0)
		r = pipes_fill(p, fd, err);
	else
		log_info("%s holds %d bytes already: left as it is", fifo->path, bytes);
	if (r < 0)
		return r;
	struct made_pipe *made = vec_add(&m->pipes);

	*made = (struct made_pipe){ .id = p->id, .fifo = true, .read_fd = TAKE_FD(fd), .write_fd = -1 };
	*ret_made = made;
	return 0;
}

static int fifo_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	const struct fifo *fifo = f->state;
	struct made_pipe *made = pipes_made(m, fifo->pipe, true);
	int r = made ? 0 : make_first(fifo, m, &made, err);

	return r < 0 ? r : pipes_reopen(made->read_fd, f->flags & O_ACCMODE, ret_fd, err);
}

static int fifo_save_side(const struct snapshot *s, struct store *store, struct err *err)
{
	return pipes_save(s, true, store, err);
}

static int fifo_load_side(struct snapshot *s, struct store *store, struct err *err)
{
	return pipes_load(s, true, store, err);
}

static void fifo_drop(void *state)
{
	free(((struct fifo *)state)->path);
}

const struct file_type fifo_type = {
	.name = "fifo",
	.record = FD_TYPES__FIFO,
	.state_size = sizeof(struct fifo),
	.claims = fifo_claims,
	.see = fifo_see,
	.save = fifo_save,
	.save_also = fifo_save_also,
	.load = fifo_load,
	.make = fifo_make,
	.save_side = fifo_save_side,
	.load_side = fifo_load_side,
	.drop = fifo_drop,
};
