/* SPDX-License-Identifier: Apache-2.0 */
/* reader.c - one image on its way in.  Nothing it says is believed beyond what the file has. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "image/store_impl.h"

struct image_reader {
	int fd;
	enum image_kind kind;
	char name[IMAGE_NAME_MAX];
	uint64_t len_bytes, at;         /* of the file; what was handed out of it */
	uint8_t *buf;
	size_t next, have;              /* in buf: handed out, filled */
};

/* A name may be anything in a CRIU's directory: a FIFO must not stop us, a device not be touched. */
int image_file_open(int dirfd, const char *name, int *ret_fd, uint64_t *ret_len_bytes, struct err *err)
{
	own_fd fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, "%s: open", name);
	if (fstat(fd, &st) < 0)
		return err_sys(err, "%s: stat", name);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EBADMSG, "%s: not a regular file", name);
	*ret_len_bytes = (uint64_t)st.st_size;
	*ret_fd = TAKE_FD(fd);
	return 1;
}

static int read_exactly(struct image_reader *r, uint8_t *to, size_t len_bytes, struct err *err)
{
	while (len_bytes > 0) {
		ssize_t n = read(r->fd, to, len_bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, "%s: read", r->name);
		if (n == 0)
			return err_set(err, EBADMSG, "%s: became shorter while it was read", r->name);
		to += n;
		len_bytes -= (size_t)n;
	}
	return 0;
}

static int refill(struct image_reader *r, struct err *err)
{
	uint64_t left = r->len_bytes - r->at;
	size_t want = left < IMAGE_BUFFER_BYTES ? (size_t)left : IMAGE_BUFFER_BYTES;
	int ret;

	if (!r->buf) {
		r->buf = malloc(want);
		if (!r->buf)
			mem_out();
	}
	ret = read_exactly(r, r->buf, want, err);
	if (ret < 0)
		return ret;
	r->next = 0;
	r->have = want;
	return 0;
}

int image_get_raw(struct image_reader *r, void *buf, size_t len_bytes, struct err *err)
{
	uint8_t *to = buf;
	int ret;

	if (len_bytes > image_left(r))
		return err_set(err, EBADMSG, "%s: %zu bytes are wanted at byte %llu, the file has %llu left", r->name,
			       len_bytes, (unsigned long long)r->at, (unsigned long long)image_left(r));
	while (len_bytes > 0) {
		size_t part = r->have - r->next < len_bytes ? r->have - r->next : len_bytes;

		if (part == 0 && len_bytes >= IMAGE_BUFFER_BYTES) {
			ret = read_exactly(r, to, len_bytes, err);
			if (ret == 0)
				r->at += len_bytes;
			return ret;
		}
		if (part == 0) {
			ret = refill(r, err);
			if (ret < 0)
				return ret;
			continue;
		}
		memcpy(to, r->buf + r->next, part);
		r->next += part;
		r->at += part;
		to += part;
		len_bytes -= part;
	}
	return 0;
}

int image_skip(struct image_reader *r, uint64_t len_bytes, struct err *err)
{
	if (len_bytes > image_left(r))
		return err_set(err, EBADMSG, "%s: %llu bytes should follow byte %llu, the file has %llu left", r->name,
			       (unsigned long long)len_bytes, (unsigned long long)r->at, (unsigned long long)image_left(r));
	if (len_bytes <= r->have - r->next) {
		r->next += len_bytes;
		r->at += len_bytes;
		return 0;
	}
	r->next = r->have = 0;
	r->at += len_bytes;
	return lseek(r->fd, (off_t)r->at, SEEK_SET) < 0 ? err_sys(err, "%s: seek", r->name) : 0;
}

static int expect_u32(struct image_reader *r, uint32_t want, struct err *err)
{
	uint32_t got = 0;
	int ret = image_get_raw(r, &got, sizeof(got), err);

	if (ret == 0 && got != want)
		return err_set(err, EBADMSG, "%s: magic %#010x at byte %llu should be %#010x", r->name, got,
			       (unsigned long long)(r->at - sizeof(got)), want);
	return ret;
}

static int check_header(struct image_reader *r, struct err *err)
{
	const struct image_type *t = &image_types[r->kind];
	int ret = 0;

	if (t->framing == IMAGE_FRAMED_RAW)
		return 0;
	if (t->framing == IMAGE_FRAMED)
		ret = expect_u32(r, IMAGE_MAGIC_COMMON, err);
	if (t->framing == IMAGE_FRAMED_SERVICE)
		ret = expect_u32(r, IMAGE_MAGIC_SERVICE, err);
	return ret < 0 ? ret : expect_u32(r, t->magic, err);
}

static struct image_reader *new_reader(int fd, uint64_t len_bytes, enum image_kind kind, const char *name)
{
	struct image_reader *r = mem_new(sizeof(*r));

	*r = (struct image_reader){ .fd = fd, .kind = kind, .len_bytes = len_bytes };
	snprintf(r->name, sizeof(r->name), "%s", name);
	return r;
}

int image_open(const struct store *store, enum image_kind kind, uint64_t id, struct image_reader **ret,
	       struct err *err)
{
	own_reader *reader = NULL;
	char name[IMAGE_NAME_MAX];
	uint64_t len_bytes;
	int r, fd;

	image_file_name(kind, id, name);
	r = image_file_open(store->dirfd, name, &fd, &len_bytes, err);
	if (r <= 0)
		return r;
	reader = new_reader(fd, len_bytes, kind, name);
	r = check_header(reader, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(reader);
	return 1;
}

/* The kind whose files begin with these two words.  Some share theirs (all pagemaps, all stats): the name decides. */
static bool kind_by_magic(const uint32_t word[2], enum image_kind named, enum image_kind *ret)
{
	bool found = false;

	for (enum image_kind kind = 0; kind < IMAGE_KIND_COUNT; kind++) {
		const struct image_type *t = &image_types[kind];
		bool match = (t->framing == IMAGE_FRAMED && word[0] == IMAGE_MAGIC_COMMON && word[1] == t->magic) ||
			     (t->framing == IMAGE_FRAMED_SERVICE && word[0] == IMAGE_MAGIC_SERVICE && word[1] == t->magic) ||
			     (t->framing == IMAGE_FRAMED_BARE && word[0] == t->magic);

		if (match && (!found || kind == named)) {
			*ret = kind;
			found = true;
		}
	}
	return found;
}

int image_open_path(const char *path, struct image_reader **ret, struct err *err)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	enum image_kind kind = IMAGE_KIND_COUNT;
	own_reader *reader = NULL;
	uint32_t word[2] = { 0 };
	uint64_t len_bytes, id;
	own_fd fd = -1;
	int r;

	r = image_file_open(AT_FDCWD, path, &fd, &len_bytes, err);
	if (r == 0)
		return err_set(err, ENOENT, "%s: no such file", path);
	if (r < 0)
		return r;
	if (!image_parse_name(name, &kind, &id))
		kind = IMAGE_KIND_COUNT;
	if (pread(fd, word, sizeof(word), 0) < 0)
		return err_sys(err, "%s: read", name);
	if (!kind_by_magic(word, kind, &kind) &&
	    (kind == IMAGE_KIND_COUNT || image_types[kind].framing != IMAGE_FRAMED_RAW))
		return err_set(err, EBADMSG, "%s: begins with %#010x %#010x, which is no image", name, word[0], word[1]);
	reader = new_reader(TAKE_FD(fd), len_bytes, kind, name);
	r = check_header(reader, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(reader);
	return 0;
}

/* The bytes of a record: in the buffer where they lie there whole, else in memory that *ret_own frees. */
static int record_bytes(struct image_reader *r, uint32_t size, const uint8_t **ret, uint8_t **ret_own, struct err *err)
{
	int ret_get;

	if (size <= r->have - r->next) {
		*ret = r->buf + r->next;
		r->next += size;
		r->at += size;
		return 0;
	}
	*ret_own = malloc(size);
	if (!*ret_own)
		mem_out();
	ret_get = image_get_raw(r, *ret_own, size, err);
	*ret = *ret_own;
	return ret_get;
}

int image_get(struct image_reader *r, const ProtobufCMessageDescriptor *of, ProtobufCMessage **ret, struct err *err)
{
	own_free uint8_t *own = NULL;
	const uint8_t *bytes;
	uint64_t start = r->at;
	uint32_t size = 0;
	int ret_get;

	if (image_left(r) == 0)
		return 0;
	ret_get = image_get_raw(r, &size, sizeof(size), err);
	if (ret_get < 0)
		return ret_get;
	if (size > image_left(r) || size > RECORD_BYTES_MAX)
		return err_set(err, EBADMSG, "%s: the record at byte %llu says that it has %u bytes, the file has %llu left",
			       r->name, (unsigned long long)start, size, (unsigned long long)image_left(r));
	ret_get = record_bytes(r, size, &bytes, &own, err);
	if (ret_get < 0)
		return ret_get;
	*ret = record_unpack(of, bytes, size);
	if (!*ret)
		return err_set(err, EBADMSG, "%s: the record at byte %llu (%u bytes) is no %s", r->name,
			       (unsigned long long)start, size, of->name);
	return 1;
}

int image_read_one(const struct store *store, enum image_kind kind, uint64_t id,
		   const ProtobufCMessageDescriptor *of, ProtobufCMessage **ret, struct err *err)
{
	own_reader *reader = NULL;
	own_message ProtobufCMessage *message = NULL;
	int r;

	r = image_open(store, kind, id, &reader, err);
	if (r <= 0)
		return r;
	r = image_get(reader, of, &message, err);
	if (r < 0)
		return r;
	if (r == 0)
		return err_set(err, EBADMSG, "%s: has no record", reader->name);
	if (image_left(reader) > 0)
		return err_set(err, EBADMSG, "%s: has %llu bytes after its one record", reader->name,
			       (unsigned long long)image_left(reader));
	*ret = TAKE_PTR(message);
	return 1;
}

uint64_t image_left(const struct image_reader *r)
{
	return r->len_bytes - r->at;
}

uint64_t image_offset(const struct image_reader *r)
{
	return r->at;
}

enum image_kind image_kind_of(const struct image_reader *r)
{
	return r->kind;
}

const char *image_name_of(const struct image_reader *r)
{
	return r->name;
}

int image_detach(struct image_reader **slot)
{
	own_reader *r = TAKE_PTR(*slot);

	return TAKE_FD(r->fd);
}

void image_close(struct image_reader *r)
{
	if (!r)
		return;
	own_fd_drop(&r->fd);
	free(r->buf);
	free(r);
}
