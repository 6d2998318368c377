/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nets.h - sockets for tests, and their way through an image.
 *
 *	nets_set_up             a temporary directory is the working directory
 *	nets_add(&n, fd)        what the "task" (this process) has open; n owns it
 *	nets_see(&n, &s, err)   all of them become a snapshot
 *	nets_again(&n)          see, save, load, close all, make, attach: n's descriptors are the new ones now;
 *	                        what see says of them is compared with what it said of the old ones
 *	nets_tear_down
 */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "resource/file/unix.h"

extern const struct file_type inet_type;

#define NETS_MAX 32

struct nets {
	int fds[NETS_MAX];
	size_t count;
	char dir[32];
};

int nets_set_up(void **state);          /* of a cmocka test: *state is a struct nets */
int nets_tear_down(void **state);
int nets_add(struct nets *n, int fd);           /* returns fd */
void nets_again(struct nets *n);
int nets_see(const struct nets *n, struct snapshot *ret, struct err *err);
void nets_save(const struct snapshot *s, FileEntry *ret_records, struct store *store);
int nets_load(const FileEntry *records, size_t count, struct store *store, struct snapshot *ret, struct err *err);
int nets_make(const struct snapshot *s, int *ret_fds, struct err *err);
struct store *nets_store(bool for_writing);     /* in the working directory */

/* An address by its path; a leading @ is an abstract name, with the pid behind it. */
socklen_t nets_unix(struct sockaddr_un *ret, const char *name);
int nets_bound(int type, const char *name);
int nets_connected(int type, const char *name);
void nets_send(int fd, const char *text);
void nets_send_to(int fd, const char *name, const char *text);
/* The next message, or what a stream has, is this text; `from` NULL: not looked at, "": nobody. */
void nets_expect(int fd, const char *text, const char *from);
void nets_expect_names(int fd, const char *own, const char *peer);
