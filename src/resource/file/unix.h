/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unix.h - what the files unix*.c have in common: the state of a unix socket.
 *
 *	unix.c          see, save, load, and whether the sockets of a snapshot fit together
 *	unix_queue.c    what waits in them: peeked at, to and from sk-queues.img
 *	unix_make.c     all of them made at once, for hardly any can be made alone (unix_net.h)
 */
#pragma once
#include <sys/un.h>

#include "resource/file/sockopt.h"
#include "resource/resource.h"

/* states of sockets are TCP's */
enum { UNIX_CONNECTED = 1, UNIX_CLOSED = 7, UNIX_LISTENING = 10 };

#define UNIX_NAME_MAX sizeof(((struct sockaddr_un *)NULL)->sun_path)

struct unix_sock {
	uint32_t ino;
	/*
	 * inode of the socket that it is connected to, or that it waits at to be accepted; 0: none.
	 * UNIX_CONNECTED with peer 0: the other end is closed.
	 */
	uint32_t peer;
	uint32_t type, state, shutdown;         /* SOCK_*, UNIX_*, bit 0: no more receives, bit 1: no more sends */
	uint32_t backlog;                       /* listening */
	uint8_t name_len;                       /* 0: no name */
	char name[UNIX_NAME_MAX];               /* as bind() took it; abstract: begins with NUL */
	char *dir;                              /* owned; what a relative name is relative to, absolute; else NULL */
	bool deleted;                           /* its path does not lead to it any more */
	bool has_perms;
	uint32_t mode, uid, gid;                /* of the file that it is bound to */
	VEC(uint32_t) waiting;                  /* listening: clients not accepted yet, first come first */
	bool unread;                            /* dump: the other end has not received all of what was sent */
	struct sock_opts opts;
};

static inline bool unix_is_path(const struct unix_sock *u)
{
	return u->name_len > 0 && u->name[0] != '\0';
}

static inline bool unix_is_connection(const struct unix_sock *u)
{
	return u->type != SOCK_DGRAM && u->state == UNIX_CONNECTED;
}

static inline bool unix_same_name(const struct unix_sock *u, const char *name, size_t name_len)
{
	return u->name_len == name_len && memcmp(u->name, name, name_len) == 0;
}

extern const struct file_type unix_type;

/* NULL: none.  The state of unix sockets, by inode or by file id. */
const struct unix_sock *unix_by_ino(const struct snapshot *s, uint32_t ino);
const struct unix_sock *unix_by_id(const struct snapshot *s, uint32_t id);

/* Does everything that `f` says of other sockets agree with them? EBADMSG (loaded) or EOPNOTSUPP (seen). */
int unix_check(const struct file *f, const struct snapshot *s, struct err *err);

/* Copies what waits in v's socket into v->snapshot->packets and consumes nothing. */
int unix_queue_see(const struct fd_view *v, const struct unix_sock *u, struct err *err);
int unix_queue_save(const struct snapshot *s, struct store *store, struct err *err);
int unix_queue_load(struct snapshot *s, struct store *store, struct err *err);

/* Makes every unix socket of m->snapshot that is not in m->fds yet. */
int unix_make_all(struct maker *m, struct err *err);
