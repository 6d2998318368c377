/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pipes.h - what pipes and FIFOs have in common: a buffer that several files share.
 *
 *	see           pipes_see: the buffer is copied once into snapshot->pipes, nothing is consumed
 *	save, load    pipes_save, pipes_load: pipes-data and fifo-data images
 *	make          pipes_fill: size and contents into a new one
 *
 * What a pipe holds is a stream, or packets (O_DIRECT) where boundaries are
 * kept.  Its id in the images is its inode number in 32 bits, or the next free
 * one; pipes and FIFOs count apart.
 */
#pragma once
#include "resource/resource.h"

/* Finds or adds the pipe of this view and tells its id.  EOPNOTSUPP: larger than what we may copy. */
int pipes_see(const struct fd_view *v, bool fifo, uint32_t *ret_id, struct err *err);
int pipes_save(const struct snapshot *s, bool fifo, struct store *store, struct err *err);
/* EBADMSG: a pipe twice, more bytes than its size, packets that are not the sum of them. */
int pipes_load(struct snapshot *s, bool fifo, struct store *store, struct err *err);
/* An image need not have what is empty: adds the pipe where it is not known. */
void pipes_need(struct snapshot *s, uint32_t id, bool fifo);

/* Sets the size and writes the contents; `fd` writes, and somebody reads. */
int pipes_fill(const struct pipe *p, int fd, struct err *err);
struct made_pipe *pipes_made(struct maker *m, uint32_t id, bool fifo);  /* NULL: not made yet */
/* Another description of the same pipe; flags: O_RDONLY, O_WRONLY or O_RDWR.  Never blocks. */
int pipes_reopen(int fd, unsigned int flags, int *ret_fd, struct err *err);
