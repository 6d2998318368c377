/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uffd.h - userfaultfd in asynchronous write-protect mode: the kernel notes
 * writes by itself, nobody is woken (Linux 6.7 and later).
 *
 * Only userfaultfd() has to run in the task; enabling and registering work from
 * outside on the descriptor that pidfd_getfd() took.  Tracking ends, and all
 * pages read as written, when the last descriptor of it is closed.
 */
#pragma once
#include <stdint.h>

#include "base/err.h"

#define UFFD_WP_UNPOPULATED (1ull << 13)
#define UFFD_WP_ASYNC       (1ull << 15)

/* One of our own; for a probe, or to be inherited. */
int uffd_open(int *ret_fd, struct err *err);

/* The handshake, once a descriptor: -EINVAL when the kernel lacks one of `features`. */
int uffd_enable(int fd, uint64_t features, struct err *err);

/* start, len: taddr and bytes, page-aligned.  -EBUSY: another userfaultfd has it.  -EINVAL: can't be tracked. */
int uffd_register_wp(int fd, uint64_t start, uint64_t len_bytes, struct err *err);
int uffd_unregister(int fd, uint64_t start, uint64_t len_bytes, struct err *err);
