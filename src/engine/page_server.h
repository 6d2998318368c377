/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_server.h - the pages of a dump that runs elsewhere, into a directory here.
 *
 *	page_server_listen()   from here on a source can connect
 *	page_server_serve()    waits for one, and stores what it sends until it says that this is all
 *	page_server_free()
 *
 * The directory gets pagemap and pages images, and `parent` where it continues
 * an earlier one; the other images are the source's, and are put beside them
 * by whoever moves the program.  With a source's first message what an earlier
 * dump left in the directory goes: a dump that fails leaves nothing that could
 * be restored.
 *
 * What fails here is told to the source, as an errno.
 */
#pragma once
#include "base/progress.h"
#include "engine/destination.h"

struct page_server_options {
	const char *images_dir;
	const char *parent_dir;         /* relative to images_dir; NULL: none */
	struct server_address address;  /* where to listen, or the socket that is connected already; host NULL: this machine alone */
	bool allow_plaintext;           /* for other machines too */
	bool auto_dedup;                /* older directories give up what the new one has anew */
	const struct progress *progress;
};

struct page_server_result {
	unsigned int pagemaps;
	uint64_t pages, in_parent;
	uint64_t given_up;              /* pages of older directories */
	uint64_t spent_us;              /* since the source has connected */
};

struct page_server {
	const struct page_server_options *options;
	struct store *store;
	struct transport transport;
	struct tls_identity *identity;  /* NULL: in the clear */
	int listen_fd;
	unsigned int port;              /* 0: it does not listen, the socket was given */
};

int page_server_listen(struct page_server *s, const struct page_server_options *options, struct err *err);
int page_server_serve(struct page_server *s, struct page_server_result *ret_result, struct err *err);
void page_server_free(struct page_server *s);
