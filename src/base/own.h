/* SPDX-License-Identifier: Apache-2.0 */
/*
 * own.h - a variable that owns something lets go of it by itself.
 *
 *	own_fd fd = open(...);          closed at the end of the block
 *	own_free char *s = strdup(x);   freed
 *	*ret_fd = TAKE_FD(fd);          handed on instead
 *
 * errno survives the letting go.
 */
#pragma once
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void own_fd_drop(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		(void)close(*fd);
	errno = saved;
}

static inline int own_fd_take(int *fd)
{
	int out = *fd;

	*fd = -1;
	return out;
}

static inline void own_free_drop(void *p)
{
	int saved = errno;

	free(*(void **)p);
	errno = saved;
}

static inline void own_dir_drop(DIR **d)
{
	int saved = errno;

	if (*d)
		(void)closedir(*d);
	errno = saved;
}

#define own_fd       __attribute__((cleanup(own_fd_drop))) int
#define own_free     __attribute__((cleanup(own_free_drop)))
#define own_dir      __attribute__((cleanup(own_dir_drop))) DIR
#define TAKE_FD(fd)  own_fd_take(&(fd))
#define TAKE_PTR(p)  ({ __typeof__(p) take_ptr_ = (p); (p) = NULL; take_ptr_; })
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
