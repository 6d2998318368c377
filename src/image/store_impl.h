/* SPDX-License-Identifier: Apache-2.0 */
/* store_impl.h - what the files of the image layer share behind store.h. */
#pragma once
#include <xxhash.h>

#include "base/vec.h"
#include "image/store.h"

#define IMAGE_BUFFER_BYTES (64u << 10)
#define IMAGE_HASH_BYTES   16u

struct image_hash { uint8_t bytes[IMAGE_HASH_BYTES]; };

/* an image as it was written */
struct image_sum {
	char name[IMAGE_NAME_MAX];
	uint64_t len_bytes;
	struct image_hash hash;
};

typedef VEC(struct image_sum) image_sums;

struct store {
	int dirfd;
	bool unchecked;          /* so are its parents */
	image_sums sums;         /* of the images finished so far */
	bool pages_follow;
	struct store *parent;    /* store_parent(): opened once, closed with this one */
};

static inline struct image_hash image_hash_of(XXH128_hash_t value)
{
	XXH128_canonical_t canonical;
	struct image_hash hash;

	XXH128_canonicalFromHash(&canonical, value);
	__builtin_memcpy(hash.bytes, canonical.digest, sizeof(hash.bytes));
	return hash;
}

/* A new file, mode 0600, in the place of whatever had that name: the descriptor, or -errno. */
int image_file_create(int dirfd, const char *name, struct err *err);
/* A regular file, opened for reading: 1, *ret_fd and its size; 0: there is none. */
int image_file_open(int dirfd, const char *name, int *ret_fd, uint64_t *ret_len_bytes, struct err *err);

/* The hash of all that was put so far (in memory or written out). */
int image_writer_hash(struct image_writer *w, struct image_hash *ret, struct err *err);
