/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unix_net.h - the unix sockets of a snapshot while they are being made.
 *
 *	unix_make.c     the phases
 *	unix_place.c    descriptors, names and the places that names lead to
 *	unix_fill.c     what waits in them is sent again
 *
 * Functions return 0 or -errno with the reason in net->err.  Descriptors in nodes belong to the maker, those in
 * `far` and `senders` to the net.
 */
#pragma once
#include "resource/file/unix.h"

struct node {
	const struct unix_sock *u;
	uint32_t id;            /* of the file */
	int *fd;                /* in m->fds */
	int far;                /* -1: none */
	bool connected;         /* to what it shall be connected to */
	bool accepted;          /* has its name from the socket that accepted it */
	bool settled;           /* bound, its clients connected, its datagrams sent */
};

/* A socket that has the name of one that has sent a packet and is gone. */
struct sender { size_t packet; int fd; };

struct net {
	struct maker *m;
	VEC(struct node) nodes;
	VEC(struct sender) senders;
	size_t room_bytes;              /* enough to send all that waits anywhere */
	bool away;                      /* in the empty root */
	struct err *err;
};

struct address { struct sockaddr_un un; socklen_t len; };

struct node *net_node(const struct net *net, uint32_t ino);             /* NULL: none */
struct node *net_node_by_name(const struct net *net, const char *name, size_t name_len);        /* datagrams */

/* Takes `fd` and gives it a number that no task has. */
int net_keep(struct net *net, int fd, int *ret_fd);
int net_create(struct net *net, uint32_t type, int *ret_fd);

struct address net_address(const char *name, size_t name_len);
/* As people write them: @ for the zero byte of abstract names. */
const char *net_show(const char *name, size_t name_len, char buf[static UNIX_NAME_MAX + 1]);
#define NET_SHOW(u) net_show((u)->name, (u)->name_len, (char[UNIX_NAME_MAX + 1]){ 0 })

/* Goes where a relative name begins; what is missing on the way there is made in the empty root. */
int net_enter(struct net *net, const char *dir, const char *name, size_t name_len);
int net_bind(struct net *net, int fd, const struct unix_sock *u);       /* and sets owner and mode of the file */
int net_connect(struct net *net, int fd, const struct unix_sock *to);
void net_remove_name(const char *name, size_t name_len);
/* Takes away the file that the dumped program has left at this name.  EADDRINUSE: somebody has it bound. */
int net_remove_stale(struct net *net, const struct unix_sock *u);

/* Sends to n what waits in it.  Where its name is needed for that, the place is entered. */
int net_fill(struct net *net, const struct node *n);
/* A socket with the name of one that has sent this packet and is gone; the net owns it. */
int net_new_sender(struct net *net, size_t packet, int *ret_fd);
