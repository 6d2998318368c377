/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "engine/dedup.h"
#include "engine/page_server.h"
#include "image/link.h"
#include "page/putter.h"
#include "wire/ps_sum.h"

#define SOURCE        "the source"
#define LAST_WORDS_MS 3000      /* that a source which still sends may take to see why it failed */

/* What is received; one pagemap at a time is open. */
struct session {
	struct page_server *server;
	struct store *parent;           /* the store's; NULL: none */
	struct putter putter;
	struct sink_image sink;
	struct page_map known;          /* what the parent has of it */
	struct ps_message open;         /* which one */
	bool is_open;
	taddr from;                     /* the next run begins here, or behind it */
	uint32_t pages_id;
	uint8_t header[PS_HEADER_BYTES];
	bool has_header;                /* it came with the pages before it */
	bool began;                     /* the first message was one: the directory is this session's */
	bool summed;                    /* the source's last message will have a checksum */
	uint64_t sum;                   /* of what was received */
	struct progress_meter meter;
	struct page_server_result result;
};

/* ---- answers ---- */

static int answer(struct session *s, int32_t value, size_t len, struct err *err)
{
	uint32_t raw = htole32((uint32_t)value);

	return transport_send(&s->server->transport, &(struct iovec){ &raw, len }, 1, err);
}

/* ---- pagemaps ---- */

static enum image_kind kind_of(const struct ps_message *m)
{
	return m->type == PS_TASK ? IMAGE_PAGEMAP : IMAGE_PAGEMAP_SHMEM;
}

static int close_pagemap(struct session *s, struct err *err)
{
	int r = s->is_open ? putter_settle(&s->putter, err) : 0, closed = 0;

	if (s->is_open)
		closed = sink_image_close(&s->sink, r < 0 ? &(struct err){ 0 } : err);
	page_map_free(&s->known);
	s->is_open = false;
	return r < 0 ? r : closed;
}

static int open_pagemap(struct session *s, const struct ps_message *m, struct err *err)
{
	int r = close_pagemap(s, err);
	bool has;

	if (r == 0 && s->parent)
		r = page_map_load(s->parent, kind_of(m), m->id, &s->known, err);
	has = r > 0;
	if (r >= 0)
		r = sink_image_open(&s->sink, s->server->store, kind_of(m), m->id, ++s->pages_id, -1, err);
	if (r < 0)
		return r;
	s->open = *m;
	s->is_open = true;
	r = putter_use(&s->putter, &s->sink.base, err);
	s->from = 0;
	s->result.pagemaps++;
	return r == 0 && m->command == PS_OPEN2 ? answer(s, has, 1, err) : r;
}

static int ask_parent(struct session *s, const struct ps_message *m, struct err *err)
{
	own_reader *reader = NULL;
	int r = s->parent && !m->summed ? image_open(s->parent, kind_of(m), m->id, &reader, err) : 0;

	return r < 0 ? r : answer(s, r, sizeof(int32_t), err);
}

/* ---- runs ---- */

static int take_header(struct session *s, struct err *err)
{
	const struct iovec iov = { s->header, sizeof(s->header) };
	bool has = s->has_header;
	int r;

	s->has_header = false;
	if (has)
		return 0;
	r = transport_receive(&s->server->transport, &iov, 1, err);
	if (r == 0)
		return err_set(err, ECONNRESET, "%s closed the connection before all was sent", s->server->transport.peer);
	return r < 0 ? r : 0;
}

/* The bytes, and with the last of them the next header: some follows. */
static int take_bytes(struct session *s, const struct ps_message *m, struct err *err)
{
	struct page_run run = { .start = m->start, .pages = m->pages, .where = PAGE_HERE };
	int r = 1;

	while (r > 0 && run.pages > 0) {
		const struct page_parcel *room;
		struct iovec iov[2];
		uint64_t pages;

		r = putter_room(&s->putter, &run, &room, err);
		if (r < 0)
			return r;
		pages = room->run.pages;
		s->has_header = pages == run.pages;
		iov[0] = (struct iovec){ room->bytes, pages * PAGE_BYTES };
		iov[1] = (struct iovec){ s->header, sizeof(s->header) };
		r = transport_receive(&s->server->transport, iov, s->has_header ? 2 : 1, err);
		if (r == 0)
			return err_set(err, ECONNRESET, "%s closed the connection in the middle", s->server->transport.peer);
		ps_sum_pages(room->bytes, pages, room->sums);
		if (s->summed)
			s->sum = ps_sum_add(s->sum, room->sums, pages);
		run.start += pages * PAGE_BYTES;
		run.pages -= pages;
		s->result.pages += pages;
		progress_add(&s->meter, pages);
	}
	return r < 0 ? r : 0;
}

static int take_from_parent(struct session *s, const struct ps_message *m, struct err *err)
{
	const struct page_run run = { .start = m->start, .pages = m->pages, .where = PAGE_PARENT };
	struct page_runs whole = { 0 }, there = { 0 };
	uint64_t pages, to;

	runs_add(&whole, run.start, run_end(&run), PAGE_HERE);
	runs_in_map(&whole, &s->known, &there);
	pages = runs_pages(&there);
	vec_free(&whole);
	vec_free(&there);
	if (pages != run.pages)
		return err_set(err, EBADMSG, "%llu pages at %#llx are not in the parent directory",
			       (unsigned long long)(run.pages - pages), (unsigned long long)run.start);
	s->result.in_parent += run.pages;
	return s->sink.base.ops->place(&s->sink.base, &run, &to, err);
}

static int take_run(struct session *s, const struct ps_message *m, struct err *err)
{
	if (!s->is_open || m->id != s->open.id || m->type != s->open.type)
		return err_set(err, EBADMSG, "pages of a thing that was not begun (id %llu)", (unsigned long long)m->id);
	if (m->start < s->from)
		return err_set(err, EBADMSG, "pages at %#llx after those at %#llx", (unsigned long long)m->start,
			       (unsigned long long)s->from);
	s->from = m->start + m->pages * PAGE_BYTES;
	return m->where == PS_HERE ? take_bytes(s, m, err) : take_from_parent(s, m, err);
}

/* ---- a session ---- */

/* A source that has announced a checksum ends with it, and one that has not ends without. */
static int check_sum(struct session *s, const struct ps_message *m, struct err *err)
{
	bool last = m->command == PS_CLOSE || m->command == PS_FORCE_CLOSE;

	s->summed |= m->command == PS_PARENT && m->summed;
	if (last && (m->summed != s->summed || m->sum != (s->summed ? s->sum : 0)))
		return err_set(err, EBADMSG, "what has come from %s is not what it sent", s->server->transport.peer);
	if (s->summed)
		s->sum = ps_sum_message(s->sum, m);
	return 0;
}

/* What an earlier dump left goes; `parent` is ours to say.  Not before a source has spoken: anybody can connect. */
static int take_directory(struct session *s, struct err *err)
{
	struct page_server *server = s->server;
	int r = link_clear(server->store, err);

	s->began = true;
	if (r == 0 && server->options->parent_dir)
		r = link_set_parent_of_pages(server->store, server->options->parent_dir, err);
	if (r == 0)
		r = store_parent(server->store, &s->parent, err);
	return r < 0 ? r : 0;
}

/* 1: there is more to come; 0: all is stored. */
static int take_message(struct session *s, struct err *err)
{
	struct ps_message m;
	int r = take_header(s, err);

	if (r == 0)
		r = ps_decode(s->header, &m, err);
	if (r == 0)
		r = check_sum(s, &m, err);
	if (r == 0 && !s->began)
		r = take_directory(s, err);
	if (r < 0)
		return r;
	switch (m.command) {
	case PS_OPEN:
	case PS_OPEN2:
		r = open_pagemap(s, &m, err);
		break;
	case PS_PARENT:
		r = ask_parent(s, &m, err);
		break;
	case PS_ADD:
		r = take_run(s, &m, err);
		break;
	default:
		return close_pagemap(s, err);
	}
	return r < 0 ? r : 1;
}

static int take_all(struct session *s, struct err *err)
{
	int r = putter_begin(&s->putter, err);

	if (r < 0)
		return r;
	while ((r = take_message(s, err)) > 0)
		s->server->transport.timeout_ms = s->server->options->address.timeout_ms;
	putter_end(&s->putter);
	if (s->is_open)
		sink_image_close(&s->sink, &(struct err){ 0 });
	page_map_free(&s->known);
	return r;
}

static void last_words(struct page_server *s, int code)
{
	struct session dumb = { .server = s };

	s->transport.timeout_ms = LAST_WORDS_MS;
	if (answer(&dumb, -code, sizeof(int32_t), &(struct err){ 0 }) == 0)
		transport_drain(&s->transport, LAST_WORDS_MS);
}

static int meet_source(struct page_server *s, struct err *err)
{
	const struct server_address *a = &s->options->address;
	int r = 0;

	if (a->socket < 0)
		r = transport_accept(s->listen_fd, &s->transport, SOURCE, err);
	if (r < 0)
		return r;
	own_fd_drop(&s->listen_fd);
	s->listen_fd = -1;
	s->transport.timeout_ms = a->timeout_ms;
	log_info("%s has connected", s->transport.peer);
	return s->identity ? tls_start(&s->transport, TLS_ACCEPTED, s->identity, NULL, err) : 0;
}

static int give_up_older(struct session *s, struct err *err)
{
	struct dedup_result given;
	int r = s->parent ? dedup_pages(s->server->store, &given, err) : 0;

	if (s->parent && r == 0)
		s->result.given_up = given.pages;
	return r;
}

int page_server_serve(struct page_server *server, struct page_server_result *ret_result, struct err *err)
{
	struct session s = { .server = server, .meter.to = server->options->progress };
	uint64_t from_us;
	int r = meet_source(server, err);

	if (r < 0)
		return r;
	from_us = clock_us();
	/* who was handed a socket is not told when the source begins */
	if (server->options->address.socket >= 0)
		server->transport.timeout_ms = -1;
	r = take_all(&s, err);
	if (r < 0) {
		last_words(server, -r);
		return r;
	}
	s.result.spent_us = clock_us() - from_us;
	r = answer(&s, 0, sizeof(int32_t), err);
	if (r == 0 && server->options->auto_dedup)
		r = give_up_older(&s, err);
	if (r == 0)
		*ret_result = s.result;
	return r;
}

/* ---- the beginning ---- */

int page_server_listen(struct page_server *s, const struct page_server_options *options, struct err *err)
{
	const struct server_address *a = &options->address;
	int r;

	*s = (struct page_server){ .options = options, .listen_fd = -1, .transport.fd = -1 };
	if (a->socket < 0 && !a->tls && !options->allow_plaintext && !transport_is_local(a->host))
		return err_set(err, EINVAL, "--address %s: other machines only with --tls, or, where nobody else is on the network, "
			       "with --allow-plaintext", a->host);
	r = a->tls ? tls_identity_load(a->tls, &s->identity, err) : 0;
	if (r == 0)
		r = store_create_dir(options->images_dir, &s->store, err);
	if (r < 0)
		return r;
	if (a->socket >= 0)
		return transport_adopt(&s->transport, a->socket, SOURCE, err);
	return transport_listen(a->host, a->port, &s->listen_fd, &s->port, err);
}

void page_server_free(struct page_server *s)
{
	transport_close(&s->transport);
	own_fd_drop(&s->listen_fd);
	store_close(s->store);
	tls_identity_free(s->identity);
	*s = (struct page_server){ .listen_fd = -1, .transport.fd = -1 };
}
