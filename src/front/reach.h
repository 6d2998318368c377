/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach.h - the two ends of a migration find one another.
 *
 *	user@host, ssh://[user@]host[:port]     `ferry receive --stdio` there, through the user's own ssh
 *	tls://host:port                         a `ferry receive --listen` there; both show certificates
 *	tcp://host:port                         the same in the clear: this machine, or --allow-plaintext
 *	unix:PATH                               a `ferry receive --unix` here
 *	fd:N                                    a socket that is connected already
 */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "front/options.h"
#include "wire/tls.h"
#include "wire/transport.h"

/* *ret_ssh: 0, or the process that is the way there, to be waited for when the transport is closed. */
int reach_target(const struct options *options, const char *where, struct transport *ret, pid_t *ret_ssh, struct err *err);

bool reach_is_ssh(const char *where);
/* Its parts, whatever is returned: *ret_host is the caller's; *ret_port, in it, may be NULL. */
int reach_ssh(const char *where, char **ret_host, char **ret_port, struct err *err);

/* Can there be more than one connection? */
bool reach_has_channels(const char *where);
/* Another one, to this port of the address that the first has reached: a name may have several. */
int reach_channel(const struct options *options, const char *where, const struct transport *first, unsigned int port, struct transport *ret,
		  struct err *err);

/* Where sources come in: --listen, --unix, --stdio or --ps-socket.  Through the last two comes one alone. */
struct reach_door {
	int fd;                         /* -1: one that is connected already */
	const char *path;               /* of its socket, which goes with the door */
	struct tls_identity *identity;  /* NULL: in the clear */
};

int reach_open(const struct options *options, struct reach_door *ret, struct err *err);
/* Waits for the next. */
int reach_accept(const struct options *options, const struct reach_door *door, struct transport *ret, struct err *err);
/* What --listen asks for beside; may wait for the source. */
int reach_shake_hands(const struct reach_door *door, struct transport *t, struct err *err);
/* At the address that `first` has come in at, on a port that is free; *ret_fd -1: it is no connection of that kind. */
int reach_listen_more(const struct reach_door *door, const struct transport *first, int *ret_fd, unsigned int *ret_port, struct err *err);
/* And removes the socket's path. */
void reach_close(struct reach_door *door);
