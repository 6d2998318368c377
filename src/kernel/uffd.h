/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uffd.h - userfaultfd in its two write-protect modes.
 *
 *	asynchronous   the kernel notes writes by itself, nobody is woken (Linux 6.7 and later)
 *	synchronous    who writes waits until whoever has the descriptor lets him (Linux 5.7)
 *
 * Only userfaultfd() has to run in the task; enabling and registering work from
 * outside on the descriptor that pidfd_getfd() took.  Tracking ends, and all
 * pages read as written, when the last descriptor of it is closed.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define UFFD_WP             (1ull << 0)
#define UFFD_WAIT_REMAP    (1ull << 2)
#define UFFD_WP_UNPOPULATED (1ull << 13)
#define UFFD_WP_ASYNC       (1ull << 15)

/* One of our own; for a probe, or to be inherited. */
int uffd_open(int *ret_fd, struct err *err);

/* The handshake, once a descriptor: -EINVAL when the kernel lacks one of `features`. */
int uffd_enable(int fd, uint64_t features, struct err *err);

/* start, len: taddr and bytes, page-aligned.  -EBUSY: another userfaultfd has it.  -EINVAL: can't be tracked. */
int uffd_register_wp(int fd, uint64_t start, uint64_t len_bytes, struct err *err);
/* Its pages read as written again; -ENOENT where nothing is registered. */
int uffd_unprotect(int fd, uint64_t start, uint64_t len_bytes);
/* False when the memory that it was made in is gone: the task has ended, or called exec. */
bool uffd_is_of_living_memory(int fd);
/* Synchronous: from now on writes to what is there wait; -EINVAL, -ENOENT where nothing is registered.  With
 * UFFD_WAIT_REMAP it and uffd_unprotect() may say -EAGAIN: an mremap() is under way. */
int uffd_protect(int fd, uint64_t start, uint64_t len_bytes);
/* Those who wait try again, whatever is there. */
void uffd_wake(int fd, uint64_t start, uint64_t len_bytes);
/* Addresses (of pages) of writes that wait; 0: none.  Other events are taken, too.  Of a descriptor that doesn't block. */
size_t uffd_read_writes(int fd, uint64_t *ret_pages, size_t max);
/*
 * Memory that is not there yet: who touches it would wait, so nobody may, but whoever puts pages there by uffd_copy().
 * That is what it is for: new pages get their bytes at once, and are not cleared before (a fifth of the time).
 */
int uffd_register_missing(int fd, uint64_t start, uint64_t len_bytes, struct err *err);
/* -ENOENT: nothing is registered there; -EEXIST: something is there already. */
int uffd_copy(int fd, uint64_t to, const void *bytes, uint64_t len_bytes);
int uffd_unregister(int fd, uint64_t start, uint64_t len_bytes, struct err *err);
