/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - a directory of images, written once and read once.
 *
 *	dump     store_create_dir -> image_create, image_put..., image_finish (each image) -> store_seal
 *	restore  store_open_dir (checks every checksum) -> image_open, image_get...
 *
 * An image is written once.  Its writer gathers records in memory and hashes
 * what it writes; store_seal() lists the hashes of all images in one more
 * image, ferry-checksums.img, and takes away the images that an earlier dump
 * left in the directory.  A directory without that image is some CRIU's and is
 * taken as it is.  Pages files are neither buffered nor hashed: their
 * descriptors are handed out, and page/sums.h has their checksums.
 *
 * Whoever gets a store, writer, reader or message owns it (own_store,
 * own_writer, own_reader, own_message let go of them).  Writers and readers
 * must go before their store.  A store is used by one thread at a time.
 *
 * All errors begin with the name of the image.  What is read is not trusted:
 * EBADMSG, with the offset, for whatever a record's bytes can be wrong in.  What
 * a message says (ids, ranges) is for its reader to check.
 */
#pragma once
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/vec.h"
#include "image/catalog.h"
#include "image/record.h"

struct store;
struct image_writer;
struct image_reader;

/* For writing.  The directory is made (mode 0700, not its parents) or taken with all that is in it. */
int store_create_dir(const char *path, struct store **ret, struct err *err);
/* The same in a directory that is open: the descriptor is taken over. */
struct store *store_create_in(int dirfd);
/* The same in memory (sys_memory_dir()): it goes with the store. */
int store_create_in_memory(struct store **ret, struct err *err);
/* Its pages files have their sizes and not yet their contents: those come as a stream (page/feed.h). */
void store_set_pages_follow(struct store *store);
bool store_pages_follow(const struct store *store);
/* For reading.  Where there are checksums, every image is compared with its own before this returns. */
int store_open_dir(const char *path, struct store **ret, struct err *err);
/* The same without a look at any checksum, its own or its parents', also of pages: for who must take what is left. */
int store_open_unchecked(const char *path, struct store **ret, struct err *err);
bool store_is_checked(const struct store *store);
/* The same of a path that is relative to another store's directory; checked as that is. */
int store_open_beside(const struct store *store, const char *path, struct store **ret, struct err *err);
/* The previous directory of an incremental chain.  1: opened; 0: there is none. */
int store_open_parent(const struct store *store, struct store **ret, struct err *err);
/* The same, opened at the first call and kept: it stays the store's, and goes with it. */
int store_parent(struct store *store, struct store **ret_parent, struct err *err);
int store_dirfd(const struct store *store);
/* Names in the directory that are images', in order of kind and id; the caller frees it. */
struct store_names { struct store_name { enum image_kind kind; uint64_t id; } *at; size_t len, cap; };   /* a VEC */
int store_list(const struct store *store, struct store_names *ret_names, struct err *err);
void store_close(struct store *store);

/*
 * Compares every image of an opened directory with its checksum.  broken: told of each that is not what was written, or
 * can't be read.  1: so it was done; 0: there are no checksums.
 */
int store_verify(const struct store *store, void (*broken)(void *arg, const struct err *why), void *arg,
		 unsigned int *ret_images, struct err *err);

/* The last act of a dump, after every image is finished: writes the checksums. */
int store_seal(struct store *store, struct err *err);

/* A file without records whose bytes somebody else moves (pages): created empty, mode 0600, for reading too. */
int store_create_file(struct store *store, enum image_kind kind, uint64_t id, int *ret_fd, struct err *err);
/* The same out of a file without a name (O_TMPFILE) in the store's directory. */
int store_name_file(struct store *store, enum image_kind kind, uint64_t id, int fd, struct err *err);
/* 1: opened, read only; 0: there is none. */
int store_open_file(const struct store *store, enum image_kind kind, uint64_t id, int *ret_fd, struct err *err);

/* Opens an image for writing: an older file of that name is replaced, a link is not followed. */
int image_create(struct store *store, enum image_kind kind, uint64_t id, struct image_writer **ret, struct err *err);
/* The same outside of a store (stats, in the work directory): not in the checksums. */
int image_create_at(int dirfd, enum image_kind kind, uint64_t id, struct image_writer **ret, struct err *err);
int image_put(struct image_writer *w, const ProtobufCMessage *message, struct err *err);
int image_put_raw(struct image_writer *w, const void *bytes, size_t len_bytes, struct err *err);
/* Writes out and closes; the writer is gone and *w is NULL afterwards, also when this fails. */
int image_finish(struct image_writer **w, struct err *err);
/* Gives up: what was written out stays behind as it is, the checksums don't know of it. */
void image_drop(struct image_writer *w);
/* A whole image with one record. */
int image_write_one(struct store *store, enum image_kind kind, uint64_t id, const ProtobufCMessage *message,
		    struct err *err);
/* The same; whoever reads at the same time sees all of it, or what was there before. */
int image_write_whole(struct store *store, enum image_kind kind, const ProtobufCMessage *message, struct err *err);
/*
 * The same for kinds that are one a directory and outside of a store, at once and for good: whatever happens, the file
 * is what it was or what it shall be, and when this returns 0 it outlives a power cut.
 */
int image_replace_one(int dirfd, enum image_kind kind, const ProtobufCMessage *message, struct err *err);

/* 1: *ret reads the image, its header is right; 0: there is no such image (the format's way to say "nothing"). */
int image_open(const struct store *store, enum image_kind kind, uint64_t id, struct image_reader **ret,
	       struct err *err);
/* Any file, wherever it lies: the kind is found by its magic, or by its name where it has none. */
int image_open_path(const char *path, struct image_reader **ret, struct err *err);
/* 1: *ret is the next record; 0: the image ends here. */
int image_get(struct image_reader *r, const ProtobufCMessageDescriptor *of, ProtobufCMessage **ret, struct err *err);
int image_get_raw(struct image_reader *r, void *buf, size_t len_bytes, struct err *err);
int image_skip(struct image_reader *r, uint64_t len_bytes, struct err *err);
uint64_t image_left(const struct image_reader *r);              /* bytes up to the end of the file */
uint64_t image_offset(const struct image_reader *r);            /* bytes from its start */
enum image_kind image_kind_of(const struct image_reader *r);
const char *image_name_of(const struct image_reader *r);
/* For who reads the rest by offsets: its descriptor, the caller's; the reader is gone and *r is NULL. */
int image_detach(struct image_reader **r);
void image_close(struct image_reader *r);
/* The one record of an image.  1: *ret is it; 0: there is no such image; EBADMSG when it has none, or more. */
int image_read_one(const struct store *store, enum image_kind kind, uint64_t id,
		   const ProtobufCMessageDescriptor *of, ProtobufCMessage **ret, struct err *err);

/* image_get(), image_read_one() without casts: IMAGE_GET(r, fdinfo_entry, &fd, err) with FdinfoEntry *fd. */
#define IMAGE_GET(r, message, ret, err) \
	IMAGE_TYPED_(ret, image_get(r, &message##__descriptor, &typed_, err))
#define IMAGE_READ_ONE(store, kind, id, message, ret, err) \
	IMAGE_TYPED_(ret, image_read_one(store, kind, id, &message##__descriptor, &typed_, err))
#define IMAGE_TYPED_(ret, call) ({                              \
	ProtobufCMessage *typed_ = NULL;                        \
	int typed_r_ = (call);                                  \
	if (typed_r_ > 0)                                       \
		*(ret) = (__typeof__(*(ret)))(void *)typed_;    \
	typed_r_;                                               \
})

static inline void own_store_drop(struct store **s)
{
	store_close(*s);
}

static inline void own_writer_drop(struct image_writer **w)
{
	image_drop(*w);
}

static inline void own_reader_drop(struct image_reader **r)
{
	image_close(*r);
}

#define own_store  __attribute__((cleanup(own_store_drop))) struct store
#define own_writer __attribute__((cleanup(own_writer_drop))) struct image_writer
#define own_reader __attribute__((cleanup(own_reader_drop))) struct image_reader
