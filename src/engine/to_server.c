/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/destination.h"

#define PAGE_SERVER "the page server"
#define GOODBYE_MS  1000

struct to_server {
	struct destination base;
	struct store *store;
	struct transport transport;
	struct ps_client client;
	struct sink_server sink;
	bool ended;
};

/* What was sent for the last link; or what it has in files, of which the server was given copies. */
static int load_known(struct store *base, enum image_kind kind, uint64_t id, struct page_map *ret_map, struct err *err)
{
	int r = page_map_load_sent(base, kind == IMAGE_PAGEMAP ? IMAGE_FERRY_SENT : IMAGE_FERRY_SENT_SHMEM, id, ret_map, err);

	return r == 0 ? page_map_load(base, kind, id, ret_map, err) : r;
}

static int known(struct destination *d, struct store *base, enum image_kind kind, uint64_t id, struct page_map *ret_map,
		 struct err *err)
{
	struct to_server *to = (struct to_server *)d;
	struct page_map map = { 0 };
	int r = load_known(base, kind, id, &map, err), theirs;

	if (r <= 0)
		return r;
	theirs = ps_client_has_parent(&to->client, kind == IMAGE_PAGEMAP ? PS_TASK : PS_SHMEM, id, err);
	if (theirs == 0)
		log_warn("%s has no earlier pages of it (its --prev-images-dir): all of them are sent", to->transport.peer);
	if (theirs > 0)
		*ret_map = map;
	else
		page_map_free(&map);
	return theirs;
}

static int open_pagemap(struct destination *d, const struct pagemap_wish *wish, struct page_sink **ret_sink, struct err *err)
{
	struct to_server *to = (struct to_server *)d;
	int r = sink_server_open(&to->sink, &to->client, to->store, wish->kind, wish->id, wish->known != NULL, err);

	if (r == 0)
		*ret_sink = &to->sink.base;
	return r;
}

static int close_pagemap(struct destination *d, struct err *err)
{
	return sink_server_close(&((struct to_server *)d)->sink, err);
}

static int end(struct destination *d, struct err *err)
{
	struct to_server *to = (struct to_server *)d;
	int r = ps_client_close(&to->client, err);

	to->ended = r == 0;
	return r;
}

static void free_it(struct destination *d)
{
	struct to_server *to = (struct to_server *)d;

	/* it waits for our end, and what it may have sent meanwhile must not turn that into a reset */
	if (to->ended)
		transport_drain(&to->transport, GOODBYE_MS);
	transport_close(&to->transport);
	free(to);
}

static int reach(struct to_server *to, const struct server_address *a, const struct tls_identity *identity, struct err *err)
{
	const char *expected = a->any_name || a->socket >= 0 ? NULL : a->host;
	int r = a->socket >= 0 ? transport_adopt(&to->transport, a->socket, PAGE_SERVER, err) :
				 transport_connect(&to->transport, a->host, a->port, PAGE_SERVER, err);

	if (r < 0)
		return r;
	to->client = (struct ps_client){ .transport = &to->transport, .handed_over = a->socket >= 0 };
	to->transport.timeout_ms = a->timeout_ms;
	if (identity)
		r = tls_start(&to->transport, TLS_CONNECTED, identity, expected, err);
	else if (a->socket < 0 && !transport_is_local(a->host))
		log_warn("memory goes to %s in the clear: anybody on the way can read and change it (see --tls)", to->transport.peer);
	return r < 0 ? r : ps_client_greet(&to->client, err);
}

int to_server(struct store *store, const struct server_address *address, struct destination **ret, struct err *err)
{
	static const struct destination_ops ops = { known, open_pagemap, close_pagemap, end, free_it };
	struct to_server *to = mem_new(sizeof(*to));
	struct tls_identity *identity = NULL;
	int r;

	to->base.ops = &ops;
	to->store = store;
	to->transport.fd = -1;
	r = address->tls ? tls_identity_load(address->tls, &identity, err) : 0;
	if (r == 0)
		r = reach(to, address, identity, err);
	tls_identity_free(identity);
	if (r < 0)
		free_it(&to->base);
	else
		*ret = &to->base;
	return r < 0 ? r : 0;
}
