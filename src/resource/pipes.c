/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/mem.h"
#include "base/own.h"
#include "resource/pipes.h"

#define PIPE_BYTES_MAX (64u << 20)

static enum image_kind data_image(bool fifo)
{
	return fifo ? IMAGE_FIFO_DATA : IMAGE_PIPES_DATA;
}

int pipes_reopen(int fd, unsigned int flags, int *ret_fd, struct err *err)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int again = open(path, (int)flags | O_NONBLOCK | O_CLOEXEC);

	if (again < 0)
		return err_sys(err, "open the pipe again");
	*ret_fd = again;
	return 0;
}

/* Appends all that `from` holds to the scratch pipe; the same pages, nothing is consumed. */
static int copy_buffer(int from, int scratch, size_t want, struct err *err)
{
	ssize_t n = tee(from, scratch, want, SPLICE_F_NONBLOCK);

	if (n < 0)
		return err_sys(err, "copy %zu bytes of a pipe", want);
	if ((size_t)n != want)
		return err_set(err, EOPNOTSUPP, "a pipe holds %zu bytes, only %zd can be copied", want, n);
	return 0;
}

/* A read ends at the end of a packet: reads all, one packet (or what goes on to its end) a read. */
static int read_packets(int scratch, struct pipe *p, struct err *err)
{
	for (size_t at = 0; at < p->len_bytes;) {
		ssize_t n = read(scratch, p->data + at, p->len_bytes - at);

		if (n <= 0)
			return err_sys(err, "read the copy of a pipe");
		vec_push(&p->packets, (uint32_t)n);
		at += (size_t)n;
	}
	return 0;
}

/* All came at once: a stream, or one packet?  Of a packet that is read in part the rest is lost. */
static int is_packet(int from, const int scratch[2], size_t len_bytes, bool *ret_packet, struct err *err)
{
	own_free uint8_t *sink = mem_new(len_bytes);
	int left = 0, r;

	r = copy_buffer(from, scratch[1], len_bytes, err);
	if (r < 0)
		return r;
	if (read(scratch[0], sink, len_bytes - 1) < 0 || ioctl(scratch[0], FIONREAD, &left) < 0)
		return err_sys(err, "read the copy of a pipe");
	*ret_packet = left == 0;
	return 0;
}

static int read_buffer(int from, struct pipe *p, struct err *err)
{
	int ends[2], r;
	bool packet = p->len_bytes > 1;

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, "create a scratch pipe");
	own_fd reader = ends[0], writer = ends[1];

	/* as many slots as the original has; where that is refused, copy_buffer tells whether they were needed */
	(void)fcntl(writer, F_SETPIPE_SZ, p->size_bytes);
	p->data = mem_new(p->len_bytes);
	r = copy_buffer(from, writer, p->len_bytes, err);
	if (r == 0)
		r = read_packets(reader, p, err);
	if (r == 0 && p->packets.len == 1 && packet)
		r = is_packet(from, (const int[]){ reader, writer }, p->len_bytes, &packet, err);
	if (p->packets.len == 1 && !packet)
		vec_free(&p->packets);
	return r;
}

static int see_buffer(const struct fd_view *v, struct pipe *p, struct err *err)
{
	int size = fcntl(v->fd, F_GETPIPE_SZ), bytes, r;
	own_fd reader = -1;

	if (size < 0 || ioctl(v->fd, FIONREAD, &bytes) < 0)
		return err_sys(err, "ask for the size of a pipe");
	p->size_bytes = (uint32_t)size;
	p->len_bytes = (size_t)bytes;
	if (bytes == 0)
		return 0;
	if ((v->flags & O_ACCMODE) == O_WRONLY) {
		r = pipes_reopen(v->fd, O_RDONLY, &reader, err);
		if (r < 0)
			return r;
	}
	return read_buffer(reader < 0 ? v->fd : reader, p, err);
}

int pipes_see(const struct fd_view *v, bool fifo, uint32_t *ret_id, struct err *err)
{
	struct pipe p = { .id = (uint32_t)v->st.st_ino, .fifo = fifo, .dev = v->st.st_dev, .ino = v->st.st_ino };
	struct snapshot *s = v->snapshot;
	int r;

	for (size_t i = 0; i < s->pipes.len; i++)
		if (s->pipes.at[i].fifo == fifo && s->pipes.at[i].dev == p.dev && s->pipes.at[i].ino == p.ino) {
			*ret_id = s->pipes.at[i].id;
			return 0;
		}
	while (snapshot_pipe(s, p.id, fifo))
		p.id++;
	r = see_buffer(v, &p, err);
	if (r < 0) {
		free(p.data);
		vec_free(&p.packets);
		return r;
	}
	vec_push(&s->pipes, p);
	*ret_id = p.id;
	return 0;
}

int pipes_save(const struct snapshot *s, bool fifo, struct store *store, struct err *err)
{
	own_writer *w = NULL;
	int r = 0;

	for (size_t i = 0; i < s->pipes.len && r >= 0; i++) {
		const struct pipe *p = &s->pipes.at[i];
		PipeDataEntry rec = PIPE_DATA_ENTRY__INIT;

		if (p->fifo != fifo)
			continue;
		rec.pipe_id = p->id;
		rec.bytes = (uint32_t)p->len_bytes;
		rec.has_size = p->size_bytes > 0;
		rec.size = p->size_bytes;
		rec.n_packets = p->packets.len;
		rec.packets = p->packets.at;
		if (!w)
			r = image_create(store, data_image(fifo), 0, &w, err);
		if (r >= 0)
			r = image_put(w, &rec.base, err);
		if (r >= 0)
			r = image_put_raw(w, p->data, p->len_bytes, err);
	}
	return r < 0 || !w ? r : image_finish(&w, err);
}

static int check(const PipeDataEntry *rec, const struct snapshot *s, bool fifo, uint64_t left_bytes, struct err *err)
{
	uint64_t sum = 0;

	if (snapshot_pipe(s, rec->pipe_id, fifo))
		return err_set(err, EBADMSG, "pipe %u is there twice", rec->pipe_id);
	if (rec->bytes > left_bytes || rec->bytes > PIPE_BYTES_MAX)
		return err_set(err, EBADMSG, "pipe %u: %u bytes are more than there can be", rec->pipe_id, rec->bytes);
	if (rec->has_size && (rec->size == 0 || rec->size > INT32_MAX || rec->bytes > rec->size))
		return err_set(err, EBADMSG, "pipe %u has %u bytes in %u", rec->pipe_id, rec->bytes, rec->size);
	for (size_t i = 0; i < rec->n_packets; i++) {
		if (rec->packets[i] == 0)
			return err_set(err, EBADMSG, "pipe %u has an empty packet", rec->pipe_id);
		sum += rec->packets[i];
	}
	if (rec->n_packets > 0 && sum != rec->bytes)
		return err_set(err, EBADMSG, "pipe %u: packets don't add up to %u bytes", rec->pipe_id, rec->bytes);
	return 0;
}

static int load_pipe(struct image_reader *in, const PipeDataEntry *rec, struct snapshot *s, bool fifo,
		     struct err *err)
{
	own_free uint8_t *data = NULL;
	struct pipe *p;
	int r;

	r = check(rec, s, fifo, image_left(in), err);
	if (r == 0 && rec->bytes > 0) {
		data = mem_new(rec->bytes);
		r = image_get_raw(in, data, rec->bytes, err);
	}
	if (r < 0)
		return r;
	p = vec_add(&s->pipes);
	*p = (struct pipe){ .id = rec->pipe_id, .size_bytes = rec->size, .fifo = fifo, .data = TAKE_PTR(data),
			    .len_bytes = rec->bytes };
	for (size_t i = 0; i < rec->n_packets; i++)
		vec_push(&p->packets, rec->packets[i]);
	return 0;
}

int pipes_load(struct snapshot *s, bool fifo, struct store *store, struct err *err)
{
	own_reader *in = NULL;
	int r = image_open(store, data_image(fifo), 0, &in, err);

	while (r > 0) {
		own_message PipeDataEntry *rec = NULL;

		r = IMAGE_GET(in, pipe_data_entry, &rec, err);
		if (r > 0) {
			r = load_pipe(in, rec, s, fifo, err);
			if (r == 0)
				r = 1;
		}
	}
	return r;
}

void pipes_need(struct snapshot *s, uint32_t id, bool fifo)
{
	if (!snapshot_pipe(s, id, fifo))
		vec_push(&s->pipes, ((struct pipe){ .id = id, .fifo = fifo }));
}

struct made_pipe *pipes_made(struct maker *m, uint32_t id, bool fifo)
{
	for (size_t i = 0; i < m->pipes.len; i++)
		if (m->pipes.at[i].id == id && m->pipes.at[i].fifo == fifo)
			return &m->pipes.at[i];
	return NULL;
}

int pipes_fill(const struct pipe *p, int fd, struct err *err)
{
	size_t at = 0;

	if (p->size_bytes > 0 && fcntl(fd, F_SETPIPE_SZ, p->size_bytes) < 0)
		return err_sys(err, "make a pipe of %u bytes", p->size_bytes);
	if (p->packets.len > 0 && fcntl(fd, F_SETFL, O_NONBLOCK | O_DIRECT) < 0)
		return err_sys(err, "make a pipe of packets");
	for (size_t i = 0; at < p->len_bytes; i++) {
		size_t len_bytes = p->packets.len > 0 ? p->packets.at[i] : p->len_bytes;
		ssize_t n = write(fd, p->data + at, len_bytes);

		if (n < 0)
			return err_sys(err, "write %zu bytes into a pipe", len_bytes);
		if ((size_t)n != len_bytes)
			return err_set(err, ENOSPC, "a pipe took %zd of %zu bytes", n, len_bytes);
		at += len_bytes;
	}
	return 0;
}
