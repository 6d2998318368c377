/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "ferry-checksums.pb-c.h"
#include "image/checksums.h"

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct image_sum *)a)->name, ((const struct image_sum *)b)->name);
}

static void sort(image_sums *sums)
{
	if (sums->len > 1)
		qsort(sums->at, sums->len, sizeof(*sums->at), by_name);
}

static bool listed(const image_sums *sorted, const char *name)
{
	struct image_sum key = { 0 };

	memcpy(key.name, name, strnlen(name, sizeof(key.name) - 1));
	return sorted->len > 0 && bsearch(&key, sorted->at, sorted->len, sizeof(key), by_name);
}

/* Calls `found` for each image in the directory that is not in the (sorted) list but would have to be. */
static int each_stranger(int dirfd, const image_sums *sorted,
			 int (*found)(int dirfd, const char *name, const struct checksums_report *report, struct err *err),
			 const struct checksums_report *report, struct err *err)
{
	own_fd fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	own_dir *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	enum image_kind kind;
	uint64_t id;
	int r = 0;

	if (!dir)
		return err_sys(err, "list the image directory");
	TAKE_FD(fd);
	while (r == 0 && (entry = readdir(dir)))
		if (image_parse_name(entry->d_name, &kind, &id) && !image_types[kind].apart &&
		    kind != IMAGE_FERRY_CHECKSUMS && !listed(sorted, entry->d_name))
			r = found(dirfd, entry->d_name, report, err);
	return r;
}

static int remove_leftover(int dirfd, const char *name, const struct checksums_report *report, struct err *err)
{
	(void)report;
	log_info("%s: removed, an earlier dump left it", name);
	return unlinkat(dirfd, name, 0) < 0 && errno != ENOENT ? err_sys(err, "%s: remove", name) : 0;
}

/* Broken, not the check itself: with a report it goes on. */
static int tell(const struct checksums_report *report, int r, const struct err *err)
{
	if (r == 0 || !report)
		return r;
	report->broken(report->arg, err);
	return 0;
}

static int refuse_stranger(int dirfd, const char *name, const struct checksums_report *report, struct err *err)
{
	(void)dirfd;
	return tell(report, err_set(err, EBADMSG, "%s: is not from this dump (it has no checksum)", name), err);
}

static int put_sum(struct image_writer *w, const struct image_sum *sum, const struct image_hash *hash, struct err *err)
{
	struct image_hash bytes = *hash;
	struct image_sum named;
	ImageChecksumEntry entry = IMAGE_CHECKSUM_ENTRY__INIT;

	entry.xxh3_128 = (ProtobufCBinaryData){ sizeof(bytes.bytes), bytes.bytes };
	if (sum) {
		named = *sum;
		entry.name = named.name;
		entry.has_length = true;
		entry.length = named.len_bytes;
	}
	return image_put(w, &entry.base, err);
}

int checksums_write(struct store *store, struct err *err)
{
	own_writer *w = NULL;
	struct image_hash so_far;
	int r;

	sort(&store->sums);
	r = each_stranger(store->dirfd, &store->sums, remove_leftover, NULL, err);
	if (r == 0)
		r = image_create(store, IMAGE_FERRY_CHECKSUMS, 0, &w, err);
	for (size_t i = 0; r == 0 && i < store->sums.len; i++)
		r = put_sum(w, &store->sums.at[i], &store->sums.at[i].hash, err);
	if (r == 0)
		r = image_writer_hash(w, &so_far, err);
	if (r == 0)
		r = put_sum(w, NULL, &so_far, err);
	return r < 0 ? r : image_finish(&w, err);
}

static int hash_file(int fd, const char *name, uint64_t len_bytes, XXH3_state_t *state, struct image_hash *ret,
		     struct err *err)
{
	own_free uint8_t *buf = NULL;
	size_t size = len_bytes < IMAGE_BUFFER_BYTES ? (size_t)len_bytes : IMAGE_BUFFER_BYTES;

	buf = mem_new(size);
	XXH3_128bits_reset(state);
	for (uint64_t at = 0; at < len_bytes; ) {
		size_t want = len_bytes - at < size ? (size_t)(len_bytes - at) : size;
		ssize_t n = pread(fd, buf, want, (off_t)at);

		if (n < 0)
			return err_sys(err, "%s: read", name);
		if (n == 0)
			return err_set(err, EBADMSG, "%s: became shorter while it was read", name);
		XXH3_128bits_update(state, buf, (size_t)n);
		at += (uint64_t)n;
	}
	*ret = image_hash_of(XXH3_128bits_digest(state));
	return 0;
}

static int verify_one(int dirfd, const struct image_sum *sum, XXH3_state_t *state, struct err *err)
{
	struct image_hash hash;
	uint64_t len_bytes;
	own_fd fd = -1;
	int r;

	r = image_file_open(dirfd, sum->name, &fd, &len_bytes, err);
	if (r < 0)
		return r;
	if (r == 0)
		return err_set(err, EBADMSG, "%s: is missing", sum->name);
	if (len_bytes != sum->len_bytes)
		return err_set(err, EBADMSG, "%s: %s than it was written (%llu of %llu bytes)", sum->name,
			       len_bytes < sum->len_bytes ? "shorter" : "longer", (unsigned long long)len_bytes,
			       (unsigned long long)sum->len_bytes);
	r = hash_file(fd, sum->name, len_bytes, state, &hash, err);
	if (r < 0)
		return r;
	if (memcmp(&hash, &sum->hash, sizeof(hash)) != 0)
		return err_set(err, EBADMSG, "%s: does not match its checksum", sum->name);
	return 0;
}

/* The seal begins at byte `start` and covers all before it. */
static int verify_seal(const struct store *store, uint64_t start, const ImageChecksumEntry *seal, XXH3_state_t *state,
		       struct err *err)
{
	char name[IMAGE_NAME_MAX];
	struct image_hash hash;
	uint64_t len_bytes;
	own_fd fd = -1;
	int r;

	image_file_name(IMAGE_FERRY_CHECKSUMS, 0, name);
	r = image_file_open(store->dirfd, name, &fd, &len_bytes, err);
	if (r <= 0)
		return r < 0 ? r : err_set(err, EBADMSG, "%s: is missing", name);
	r = hash_file(fd, name, start, state, &hash, err);
	if (r < 0)
		return r;
	if (seal->xxh3_128.len != sizeof(hash) || memcmp(seal->xxh3_128.data, &hash, sizeof(hash)) != 0)
		return err_set(err, EBADMSG, "%s: does not match its own checksum", name);
	return 0;
}

static int take_entry(const ImageChecksumEntry *entry, image_sums *sums, struct err *err)
{
	struct image_sum sum = { .len_bytes = entry->length };
	enum image_kind kind;
	uint64_t id;

	if (entry->xxh3_128.len != sizeof(sum.hash) || !image_parse_name(entry->name, &kind, &id))
		return err_set(err, EBADMSG, "%s: has a checksum of something that is no image",
			       image_types[IMAGE_FERRY_CHECKSUMS].file);
	snprintf(sum.name, sizeof(sum.name), "%s", entry->name);
	memcpy(&sum.hash, entry->xxh3_128.data, sizeof(sum.hash));
	vec_push(sums, sum);
	return 0;
}

/* Reads the list.  1: it is whole; 0: there is none. */
static int read_list(const struct store *store, XXH3_state_t *state, image_sums *sums, struct err *err)
{
	own_reader *reader = NULL;
	uint64_t start;
	int r;

	r = image_open(store, IMAGE_FERRY_CHECKSUMS, 0, &reader, err);
	if (r <= 0)
		return r;
	for (;;) {
		own_message ImageChecksumEntry *entry = NULL;

		start = image_offset(reader);
		r = IMAGE_GET(reader, image_checksum_entry, &entry, err);
		if (r == 0)
			return err_set(err, EBADMSG, "%s: ends without its own checksum", image_name_of(reader));
		if (r < 0)
			return r;
		if (!entry->name && image_left(reader) > 0)
			return err_set(err, EBADMSG, "%s: goes on after its own checksum", image_name_of(reader));
		if (!entry->name) {
			r = verify_seal(store, start, entry, state, err);
			return r < 0 ? r : 1;
		}
		r = take_entry(entry, sums, err);
		if (r < 0)
			return r;
	}
}

static int verify(const struct store *store, const struct checksums_report *report, XXH3_state_t *state, image_sums *sums,
		  struct err *err)
{
	int r = read_list(store, state, sums, err);

	if (r <= 0)
		return r == 0 ? 0 : tell(report, r, err) < 0 ? r : 1;
	sort(sums);
	for (size_t i = 0; i < sums->len; i++) {
		r = tell(report, verify_one(store->dirfd, &sums->at[i], state, err), err);
		if (r < 0)
			return r;
	}
	r = each_stranger(store->dirfd, sums, refuse_stranger, report, err);
	return r < 0 ? r : 1;
}

int checksums_verify(const struct store *store, const struct checksums_report *report, unsigned int *ret_images,
		     struct err *err)
{
	image_sums sums = { 0 };
	XXH3_state_t *state = XXH3_createState();
	int r;

	if (!state)
		mem_out();
	r = verify(store, report, state, &sums, err);
	*ret_images = (unsigned int)sums.len;
	XXH3_freeState(state);
	vec_free(&sums);
	return r;
}
