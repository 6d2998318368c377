/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ps_client.h - a page server, as its source sees it (ps_protocol.h).
 *
 *	ps_client_greet()
 *	ps_client_has_parent()  any time between pagemaps
 *	ps_client_open()        the pagemap of one thing begins
 *	ps_client_add()         its runs, rising
 *	ps_client_close()       all is stored: only then it is
 *
 * The transport is the caller's, and one thread at a time uses a client.  A
 * server that fails says why in a status and closes: so whoever sends looks
 * whether one has come, and its reason is the error here.
 */
#pragma once
#include "wire/ps_protocol.h"
#include "wire/transport.h"

struct ps_client {
	struct transport *transport;
	bool handed_over;               /* the socket is not the server's alone: it is told to end by itself */
	enum ps_type type;              /* what is open */
	uint64_t id;
	uint64_t sum;                   /* of what was sent (ps_sum.h) */
};

struct ps_run {
	uint64_t start, pages;
	const void *bytes;              /* NULL: the parent has them */
};

/* The first words: is this a page server, and does it take us? */
int ps_client_greet(struct ps_client *c, struct err *err);
/* 1: the server's parent directory has pages of this; 0: it has none. */
int ps_client_has_parent(struct ps_client *c, enum ps_type type, uint64_t id, struct err *err);
/* The same of the one that begins; EBADMSG when wants_parent and it has none. */
int ps_client_open(struct ps_client *c, enum ps_type type, uint64_t id, bool wants_parent, struct err *err);
/* page_sums: of all pages that have bytes here, in order. */
int ps_client_add(struct ps_client *c, const struct ps_run *runs, size_t count, const uint64_t *page_sums, struct err *err);
int ps_client_close(struct ps_client *c, struct err *err);
