/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport.h - one connection: bytes in order, both ways, and an end to all waiting.
 *
 *	transport_connect() ------------------------+
 *	transport_adopt() --------------------------+--> [ tls_start() ] --> send, receive --> transport_close()
 *	transport_listen() --> transport_accept() --+
 *
 * A peer that sends nothing where something is due, or takes nothing of what it
 * is sent, is given up after timeout_ms: ETIMEDOUT.  One that closes in the
 * middle: ECONNRESET.  Both are told in words that have the peer's name.
 *
 * A transport owns its descriptor.  One thread at a time sends, and one at a
 * time receives; over TLS it is one for both.  What is below the bytes (nothing,
 * or TLS) is a layer: it moves what goes at once, transport.c does the waiting.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"

#define TRANSPORT_TIMEOUT_MS 30000

struct transport;

/* What can be done now: a count (receive: 0 at the end), -EAGAIN with t->wants set, or another error with *err. */
struct transport_layer {
	ssize_t (*send)(struct transport *t, const struct iovec *iov, int count, struct err *err);
	ssize_t (*receive)(struct transport *t, const struct iovec *iov, int count, struct err *err);
	void (*close)(struct transport *t);
};

struct transport {
	int fd;
	int timeout_ms;                 /* -1: wait for ever */
	uint64_t until_us;              /* of clock_us(); whatever comes, all waiting ends then.  0: it does not */
	short wants;                    /* poll's events that the layer waits for */
	char peer[64];                  /* "the page server at 10.0.0.2:9000" */
	const struct transport_layer *layer;
	void *layer_data;
};

/* Sets *t; `what` is the peer in words.  A connection takes timeout_ms at most as well. */
int transport_connect(struct transport *t, const char *host, const char *port, const char *what, struct err *err);
int transport_connect_unix(struct transport *t, const char *path, const char *what, struct err *err);
/* A stream socket that somebody handed over; it is t's from then on. */
int transport_adopt(struct transport *t, int fd, const char *what, struct err *err);

/* What comes on one descriptor and goes on another (ssh's standard input and output); both are t's from then on. */
int transport_adopt_pair(struct transport *t, int in_fd, int out_fd, const char *what, struct err *err);

/* host: NULL is this machine alone.  port "0": a free one, which *ret_port tells. */
int transport_listen(const char *host, const char *port, int *ret_fd, unsigned int *ret_port, struct err *err);
/* Waits as long as it takes. */
int transport_accept(int listen_fd, struct transport *t, const char *what, struct err *err);

/* Is this where only programs of this machine can connect to, or be connected to?  Names that can't be found are not. */
bool transport_is_local(const char *host);

/* All of it, or an error. */
int transport_send(struct transport *t, const struct iovec *iov, int count, struct err *err);
/* 1: all that was asked for; 0: the peer closed before the first byte. */
int transport_receive(struct transport *t, const struct iovec *iov, int count, struct err *err);
/* What has come already, at most len bytes, without waiting; 0: nothing has.  ECONNRESET: the end. */
ssize_t transport_receive_some(struct transport *t, void *buf, size_t len, struct err *err);
/* Reads and forgets until the peer closes, or for at_most_ms: a peer that still sends is to see our last words. */
void transport_drain(struct transport *t, int at_most_ms);
void transport_close(struct transport *t);

/* For layers: waits for t->wants.  `sending` is for the words. */
int transport_wait(struct transport *t, bool sending, struct err *err);
