/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unix_queue.c - what waits in unix sockets to be received.
 *
 * A stream is peeked at in one call.  Of messages a call shows one, and only
 * SO_PEEK_OFF shows those behind it: that is set, and put back, aside (aside.h),
 * so that no task is ever left with it.  No call has room for control data:
 * descriptors on their way are not installed, MSG_CTRUNC tells of them.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/sys.h"
#include "resource/file/aside.h"
#include "resource/file/unix.h"

#define FIRST_BYTES (64u << 10)

/* One peek at up to `size` bytes; len_bytes becomes the length of the message, even if that is more. */
static int peek(int fd, void *buf, size_t size, struct packet *packet, struct err *err)
{
	struct sockaddr_un from;
	struct iovec iov = { .iov_base = buf, .iov_len = size };
	struct msghdr msg = { .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n = recvmsg(fd, &msg, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);

	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : err_sys(err, "look into the queue");
	if (msg.msg_flags & MSG_CTRUNC)
		return err_set(err, EOPNOTSUPP, "descriptors or credentials are on their way in its queue");
	if (msg.msg_namelen > offsetof(struct sockaddr_un, sun_path)) {
		size_t len = msg.msg_namelen - offsetof(struct sockaddr_un, sun_path);

		packet->from_len = (uint8_t)(len < sizeof(packet->from) ? len : sizeof(packet->from));
		memcpy(packet->from, from.sun_path, packet->from_len);
	}
	packet->len_bytes = (size_t)n;
	return 0;
}

static int see_stream(const struct fd_view *v, int total, struct err *err)
{
	own_free uint8_t *bytes = mem_new((size_t)total + 1);
	struct packet packet = { .file = v->id };
	int r = peek(v->fd, bytes, (size_t)total + 1, &packet, err);

	if (r < 0)
		return r == -EAGAIN ? err_set(err, EAGAIN, "%d bytes wait, but can't be read", total) : r;
	if (packet.len_bytes != (size_t)total)
		return err_set(err, EOPNOTSUPP, "%d bytes wait in pieces that can't be read at once (%zu can)", total,
			       packet.len_bytes);
	packet.from_len = 0;
	packet.bytes = TAKE_PTR(bytes);
	vec_push(&v->snapshot->packets, packet);
	return 0;
}

struct look {
	const struct fd_view *v;
	const struct unix_sock *u;
	size_t total;                   /* seqpacket: bytes in all messages */
	uint8_t *buf;
	size_t size;
	struct err *err;
};

static int seek(const struct look *look, int offset)
{
	if (setsockopt(look->v->fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0)
		return err_sys(look->err, "set SO_PEEK_OFF");
	return 0;
}

/* The message that begins at byte `offset` of the queue, its bytes in look->buf.  1: there, 0: none. */
static int see_message(struct look *look, size_t offset, struct packet *packet)
{
	for (;;) {
		int r = peek(look->v->fd, look->buf, look->size, packet, look->err);

		if (r < 0)
			return r == -EAGAIN ? 0 : r;
		if (packet->len_bytes <= look->size)
			return 1;
		look->size = packet->len_bytes;
		free(look->buf);
		look->buf = mem_new(look->size);
		r = seek(look, (int)offset);    /* the peek has moved into the message */
		if (r < 0)
			return r;
	}
}

static int see_messages(struct look *look)
{
	size_t offset = 0;
	int r = seek(look, 0);

	while (r >= 0) {
		struct packet packet = { .file = look->v->id };

		r = see_message(look, offset, &packet);
		/* behind its end a closed seqpacket queue shows empty messages for ever */
		if (r <= 0 || (packet.len_bytes == 0 && look->u->type == SOCK_SEQPACKET && offset >= look->total))
			break;
		offset += packet.len_bytes;
		packet.bytes = mem_dup(look->buf, packet.len_bytes);
		vec_push(&look->v->snapshot->packets, packet);
	}
	return r < 0 ? r : 0;
}

static int look_aside(void *data)
{
	struct look *look = data;
	int was = -1, r;

	if (sock_opt_get(look->v->fd, SOL_SOCKET, SO_PEEK_OFF, &was) < 0)
		return err_sys(look->err, "ask for SO_PEEK_OFF");
	r = see_messages(look);
	return setsockopt(look->v->fd, SOL_SOCKET, SO_PEEK_OFF, &was, sizeof(was)) < 0 ?
		err_sys(look->err, "put SO_PEEK_OFF back") : r;
}

int unix_queue_see(const struct fd_view *v, const struct unix_sock *u, struct err *err)
{
	int total = 0, events, r;

	if (u->state == UNIX_LISTENING || (u->type != SOCK_DGRAM && u->state != UNIX_CONNECTED))
		return 0;
	if (ioctl(v->fd, SIOCINQ, &total) < 0)
		return err_sys(err, "ask what waits");
	/* only what has something is read: a read would take an error away that waits for the task */
	if (u->type == SOCK_STREAM)
		return total > 0 ? see_stream(v, total, err) : 0;
	events = sys_poll_now(v->fd, POLLIN, err);
	if (events < 0)
		return events;
	if (!(events & POLLIN) || (u->type == SOCK_SEQPACKET && total == 0))
		return 0;
	if (events & POLLERR)
		return err_set(err, EOPNOTSUPP, "an error waits in front of the messages in its queue");
	struct look look = { v, u, (size_t)total, mem_new(FIRST_BYTES), FIRST_BYTES, err };
	r = aside(look_aside, &look, err);
	free(look.buf);
	return r;
}

int unix_queue_save(const struct snapshot *s, struct store *store, struct err *err)
{
	own_writer *w = NULL;
	int r = 0;

	if (s->packets.len == 0)
		return 0;
	r = image_create(store, IMAGE_SK_QUEUES, 0, &w, err);
	for (size_t i = 0; i < s->packets.len && r >= 0; i++) {
		struct packet *p = &s->packets.at[i];
		SkPacketEntry rec = SK_PACKET_ENTRY__INIT;

		rec.id_for = p->file;
		rec.length = (uint32_t)p->len_bytes;
		rec.has_from = p->from_len > 0;
		rec.from = (ProtobufCBinaryData){ .len = p->from_len, .data = (uint8_t *)p->from };
		r = image_put(w, &rec.base, err);
		if (r >= 0)
			r = image_put_raw(w, p->bytes, p->len_bytes, err);
	}
	return r < 0 ? r : image_finish(&w, err);
}

static int load_packet(const SkPacketEntry *rec, struct image_reader *reader, struct snapshot *s, struct err *err)
{
	struct packet *p;

	if (rec->length > image_left(reader))
		return err_set(err, EBADMSG, "packet of %u bytes, and %llu are left", rec->length,
			       (unsigned long long)image_left(reader));
	if (rec->from.len > sizeof(p->from))
		return err_set(err, EBADMSG, "packet from a name of %zu bytes", rec->from.len);
	if (rec->n_scm > 0)
		return err_set(err, EOPNOTSUPP, "packet for file %#x carries descriptors", rec->id_for);
	p = vec_add(&s->packets);
	*p = (struct packet){ .file = rec->id_for, .bytes = mem_new(rec->length + 1ul), .len_bytes = rec->length };
	if (rec->has_from) {
		p->from_len = (uint8_t)rec->from.len;
		memcpy(p->from, rec->from.data, rec->from.len);
	}
	return image_get_raw(reader, p->bytes, p->len_bytes, err);
}

int unix_queue_load(struct snapshot *s, struct store *store, struct err *err)
{
	own_reader *reader = NULL;
	int r = image_open(store, IMAGE_SK_QUEUES, 0, &reader, err);

	while (r > 0) {
		SkPacketEntry *rec;

		r = IMAGE_GET(reader, sk_packet_entry, &rec, err);
		if (r <= 0)
			break;
		r = load_packet(rec, reader, s, err);
		sk_packet_entry__free_unpacked(rec, NULL);
		if (r < 0)
			break;
		r = 1;
	}
	return r;
}
