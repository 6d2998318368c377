/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shmem.h - shared memory objects: memory that several mappings or descriptors show, in a file that has no place.
 *
 *	see           whoever meets one notes it in snapshot->shmems: shmem_see (memfds), see_mm.c (anonymous ones)
 *	save, load    shmem_save, shmem_load: memfd.img, of those that files name; the others are known by their mappings
 *	make          shmem_make, before all files; the engine puts the contents in; then files are opened by its
 *	              descriptor in maker->shmems
 *	seal          shmem_seal, when nothing more is done that a seal forbids
 *
 * CRIU may write an anonymous object as a memfd of the name "/dev/zero".
 */
#pragma once
#include "resource/resource.h"

/* Finds or adds the memfd of this view.  EOPNOTSUPP: it is of huge pages. */
int shmem_see(const struct fd_view *v, uint32_t *ret_inode_id, struct err *err);
int shmem_save(const struct snapshot *s, struct store *store, struct err *err);
int shmem_load(struct snapshot *s, struct store *store, struct err *err);

/* Size, owner and mode are right, all of it reads as zeros; open for reading and writing. */
int shmem_make(const struct shmem *o, int *ret_fd, struct err *err);
/* fd must be open for writing */
int shmem_seal(const struct shmem *o, int fd, struct err *err);
/* Another description of the file behind fd (O_PATH will do), O_CLOEXEC. */
int shmem_open(int fd, unsigned int flags, int *ret_fd, struct err *err);

/* Which memfd a file is open on; 0: it is no memfd. */
uint32_t memfd_inode_of(const struct file *f);
