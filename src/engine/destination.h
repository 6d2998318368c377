/* SPDX-License-Identifier: Apache-2.0 */
/*
 * destination.h - where the pages of a dump go: into its directory, or to a page server.
 *
 *	make one (to_directory(), to_server())
 *	known()			what it has of a thing by the last link
 *	open(), pump, close()	one pagemap after the other
 *	end()			all are there, for good
 *	destination_free()
 *
 * One thread at a time uses it.  The store stays the caller's, and outlives it.
 */
#pragma once
#include "image/store.h"
#include "page/ends.h"
#include "wire/tls.h"

struct pagemap_wish {
	enum image_kind kind;           /* IMAGE_PAGEMAP, IMAGE_PAGEMAP_SHMEM */
	uint64_t id;
	int reserved;                   /* a file for the pages, taken over; -1: none */
	struct page_runs *placed;       /* NULL, or gets what goes into the pages file */
	const struct page_map *known;   /* NULL, or what known() said: what it has may be named as the parent's */
};

struct destination;
struct destination_ops {
	int (*known)(struct destination *d, struct store *base, enum image_kind kind, uint64_t id, struct page_map *ret_map,
		     struct err *err);
	int (*open)(struct destination *d, const struct pagemap_wish *wish, struct page_sink **ret_sink, struct err *err);
	int (*close)(struct destination *d, struct err *err);   /* after a failure of the pump too */
	int (*end)(struct destination *d, struct err *err);
	void (*free)(struct destination *d);
};

struct destination {
	const struct destination_ops *ops;
	bool in_files;                  /* of our directory: tasks can share pages there */
	uint32_t pages_id;              /* the file of the last pagemap */
};

/* A page server, and how it is reached. */
struct server_address {
	const char *host, *port;
	int socket;                     /* connected already; -1: it is not */
	int timeout_ms;                 /* how long the other side may send or take nothing */
	const struct tls_options *tls;  /* NULL: in the clear */
	bool any_name;                  /* whoever the CA has signed will do */
};

struct destination *to_directory(struct store *store);
/* Connects, and knows that it is a page server.  `store` gets notes of what was sent, and no pages. */
int to_server(struct store *store, const struct server_address *address, struct destination **ret, struct err *err);
void destination_free(struct destination *d);
