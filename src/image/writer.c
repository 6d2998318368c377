/* SPDX-License-Identifier: Apache-2.0 */
/* writer.c - one image on its way out: gathered in memory, hashed and written in large pieces. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "image/store_impl.h"

struct image_writer {
	struct store *store;            /* NULL: not part of a store */
	int fd;
	char name[IMAGE_NAME_MAX];
	XXH3_state_t *hash;             /* of what was written out */
	uint64_t written_bytes;
	uint8_t *buf;
	size_t used, cap;
};

int image_file_create(int dirfd, const char *name, struct err *err)
{
	const int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(dirfd, name, flags, 0600);

	if (fd < 0 && errno == EEXIST) {
		if (unlinkat(dirfd, name, 0) < 0)
			return err_sys(err, "%s: replace", name);
		fd = openat(dirfd, name, flags, 0600);
	}
	return fd < 0 ? err_sys(err, "%s: create", name) : fd;
}

static int write_out(struct image_writer *w, const uint8_t *at, size_t len_bytes, struct err *err)
{
	XXH3_128bits_update(w->hash, at, len_bytes);
	while (len_bytes > 0) {
		ssize_t n = write(w->fd, at, len_bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, "%s: write at byte %llu", w->name, (unsigned long long)w->written_bytes);
		at += n;
		len_bytes -= (size_t)n;
		w->written_bytes += (uint64_t)n;
	}
	return 0;
}

static int flush(struct image_writer *w, struct err *err)
{
	size_t len_bytes = w->used;

	w->used = 0;
	return write_out(w, w->buf, len_bytes, err);
}

/* Room for so many bytes more behind what is gathered: the buffer grows, and is written out once it is large. */
static int reserve(struct image_writer *w, size_t len_bytes, uint8_t **ret_at, struct err *err)
{
	int r;

	if (w->used > 0 && w->used + len_bytes > IMAGE_BUFFER_BYTES) {
		r = flush(w, err);
		if (r < 0)
			return r;
	}
	if (w->used + len_bytes > w->cap) {
		size_t cap = w->cap ? w->cap * 2 : 1024;

		w->cap = cap < w->used + len_bytes ? w->used + len_bytes : cap;
		w->buf = realloc(w->buf, w->cap);
		if (!w->buf)
			mem_out();
	}
	*ret_at = w->buf + w->used;
	w->used += len_bytes;
	return 0;
}

static int put_u32(struct image_writer *w, uint32_t value, struct err *err)
{
	return image_put_raw(w, &value, sizeof(value), err);
}

static int put_header(struct image_writer *w, const struct image_type *t, struct err *err)
{
	int r = 0;

	if (t->framing == IMAGE_FRAMED_RAW)
		return 0;
	if (t->framing == IMAGE_FRAMED)
		r = put_u32(w, IMAGE_MAGIC_COMMON, err);
	if (t->framing == IMAGE_FRAMED_SERVICE)
		r = put_u32(w, IMAGE_MAGIC_SERVICE, err);
	return r < 0 ? r : put_u32(w, t->magic, err);
}

static int create_named(int dirfd, struct store *store, enum image_kind kind, const char *name, struct image_writer **ret,
			struct err *err)
{
	own_writer *w = mem_new(sizeof(*w));
	int r;

	w->store = store;
	w->hash = XXH3_createState();
	if (!w->hash)
		mem_out();
	XXH3_128bits_reset(w->hash);
	snprintf(w->name, sizeof(w->name), "%s", name);
	w->fd = image_file_create(dirfd, w->name, err);
	if (w->fd < 0)
		return w->fd;
	r = put_header(w, &image_types[kind], err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(w);
	return 0;
}

static int create(int dirfd, struct store *store, enum image_kind kind, uint64_t id, struct image_writer **ret,
		  struct err *err)
{
	char name[IMAGE_NAME_MAX];

	image_file_name(kind, id, name);
	return create_named(dirfd, store, kind, name, ret, err);
}

int image_create(struct store *store, enum image_kind kind, uint64_t id, struct image_writer **ret, struct err *err)
{
	return create(store->dirfd, store, kind, id, ret, err);
}

int image_create_at(int dirfd, enum image_kind kind, uint64_t id, struct image_writer **ret, struct err *err)
{
	return create(dirfd, NULL, kind, id, ret, err);
}

int image_put(struct image_writer *w, const ProtobufCMessage *message, struct err *err)
{
	size_t len_bytes = protobuf_c_message_get_packed_size(message);
	uint32_t size = (uint32_t)len_bytes;
	uint8_t *at;
	int r;

	if (len_bytes > RECORD_BYTES_MAX)
		return err_set(err, EFBIG, "%s: a record of %zu bytes (%u at most)", w->name, len_bytes, RECORD_BYTES_MAX);
	r = reserve(w, sizeof(size) + len_bytes, &at, err);
	if (r < 0)
		return r;
	memcpy(at, &size, sizeof(size));
	protobuf_c_message_pack(message, at + sizeof(size));
	return 0;
}

int image_put_raw(struct image_writer *w, const void *bytes, size_t len_bytes, struct err *err)
{
	uint8_t *at;
	int r;

	if (len_bytes >= IMAGE_BUFFER_BYTES) {
		r = flush(w, err);
		return r < 0 ? r : write_out(w, bytes, len_bytes, err);
	}
	r = reserve(w, len_bytes, &at, err);
	if (r < 0)
		return r;
	if (len_bytes > 0)
		memcpy(at, bytes, len_bytes);
	return 0;
}

int image_writer_hash(struct image_writer *w, struct image_hash *ret, struct err *err)
{
	int r = flush(w, err);

	if (r < 0)
		return r;
	*ret = image_hash_of(XXH3_128bits_digest(w->hash));
	return 0;
}

int image_finish(struct image_writer **slot, struct err *err)
{
	own_writer *w = TAKE_PTR(*slot);
	struct image_sum sum = { 0 };
	int r;

	r = image_writer_hash(w, &sum.hash, err);
	if (r < 0)
		return r;
	if (close(TAKE_FD(w->fd)) < 0)
		return err_sys(err, "%s: close", w->name);
	memcpy(sum.name, w->name, sizeof(sum.name));
	sum.len_bytes = w->written_bytes;
	if (w->store)
		vec_push(&w->store->sums, sum);
	return 0;
}

void image_drop(struct image_writer *w)
{
	if (!w)
		return;
	own_fd_drop(&w->fd);
	XXH3_freeState(w->hash);
	free(w->buf);
	free(w);
}

/* Under another name first.  A file system may tell of a full disk as late as the fsync. */
static int write_new(int dirfd, struct store *store, enum image_kind kind, const ProtobufCMessage *message, bool durably, struct err *err)
{
	const char *name = image_types[kind].file;
	char new_name[IMAGE_NAME_MAX];
	own_writer *w = NULL;
	int r;

	snprintf(new_name, sizeof(new_name), "%s.new", name);
	r = create_named(dirfd, store, kind, new_name, &w, err);
	if (r == 0)
		r = image_put(w, message, err);
	if (r == 0)
		r = flush(w, err);
	if (r == 0 && durably && fsync(w->fd) < 0)
		r = err_sys(err, "%s: write", new_name);
	if (r == 0) {
		snprintf(w->name, sizeof(w->name), "%s", name);         /* for the checksums */
		r = image_finish(&w, err);
	}
	if (r == 0 && (renameat(dirfd, new_name, dirfd, name) < 0 || (durably && fsync(dirfd) < 0)))
		r = err_sys(err, "%s: replace", name);
	if (r < 0)
		unlinkat(dirfd, new_name, 0);
	return r;
}

int image_replace_one(int dirfd, enum image_kind kind, const ProtobufCMessage *message, struct err *err)
{
	return write_new(dirfd, NULL, kind, message, true, err);
}

int image_write_whole(struct store *store, enum image_kind kind, const ProtobufCMessage *message, struct err *err)
{
	return write_new(store->dirfd, store, kind, message, false, err);
}

int image_write_one(struct store *store, enum image_kind kind, uint64_t id, const ProtobufCMessage *message,
		    struct err *err)
{
	own_writer *w = NULL;
	int r;

	r = image_create(store, kind, id, &w, err);
	if (r == 0)
		r = image_put(w, message, err);
	if (r == 0)
		r = image_finish(&w, err);
	return r;
}
