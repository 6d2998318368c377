/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sock_diag.h - every unix, TCP and UDP socket of a network namespace.
 *
 *	struct sock_diag diag;
 *	sock_diag_collect(netns_fd, &diag, err);        one dump of each table
 *	s = sock_diag_unix(&diag, st.st_ino);           by the inode that fstat gives
 *	sock_diag_free(&diag);
 *
 * A picture of one instant; what the frozen tasks hold does not change in it.
 * Sockets without a file (not accepted yet, TIME_WAIT) have inode 0 and are
 * left out.  A table that this kernel can't list (no such module) is empty.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/vec.h"

/* States are TCP's for every family: TCP_ESTABLISHED (1), TCP_CLOSE (7), TCP_LISTEN (10) ... */

struct sock_unix {
	uint32_t ino;
	uint32_t peer;                  /* inode, 0: none, or it has no file */
	uint8_t type, state;            /* SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET; TCP_* */
	uint8_t shutdown;               /* 1: no more receives, 2: no more sends, or both */
	bool has_vfs;                   /* bound to a path: vfs_dev, vfs_ino (its low 32 bits) */
	dev_t vfs_dev;
	uint32_t vfs_ino;
	uint32_t uid;
	uint32_t rqueue, wqueue;        /* bytes to read, bytes sent and not read; listening: waiting clients, backlog */
	uint8_t name_len;               /* 0: not bound */
	char name[108];                 /* any bytes; abstract: the first is NUL; a path: with its NUL, if there was room */
	uint32_t *icons;                /* listening: the clients whose connections wait, first come first; 0: client gone */
	size_t icon_count;
};

struct sock_inet {
	uint32_t ino;
	uint8_t family, type, proto;    /* AF_*, SOCK_*, IPPROTO_TCP or IPPROTO_UDP */
	uint8_t state, shutdown;
	bool v6only;
	uint16_t src_port, dst_port;    /* host order */
	uint8_t src[16], dst[16];       /* network order; AF_INET uses the first 4 */
	uint32_t ifindex;               /* bound to this device, 0: none */
	uint32_t uid;
	uint32_t rqueue, wqueue;        /* bytes; TCP_LISTEN: connections that wait, and the backlog */
};

struct sock_diag {
	VEC(struct sock_unix) unix_socks;
	VEC(struct sock_inet) inet_socks;
};

/* netns_fd -1: our own namespace; another one is entered by this thread for a moment (CAP_SYS_ADMIN). */
int sock_diag_collect(int netns_fd, struct sock_diag *ret_diag, struct err *err);
void sock_diag_free(struct sock_diag *diag);

/* NULL when there is none. */
const struct sock_unix *sock_diag_unix(const struct sock_diag *diag, ino_t ino);
const struct sock_inet *sock_diag_inet(const struct sock_diag *diag, ino_t ino);

/* Can the sockets of this family (and IPPROTO_*, 0 for AF_UNIX) be listed here at all? 0 or -errno. */
int sock_diag_try(uint8_t family, uint8_t proto, struct err *err);
