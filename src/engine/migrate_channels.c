/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "engine/migrate_channels.h"
#include "engine/migrate_hello.h"

#define STRANGER_MS 5000u       /* for one who has connected to say who it is, in all */

/* Both ways; the target says a port, the source which one this is. */
struct channels { uint32_t port_or_index, reserved; uint64_t number[2]; };

static int put(struct frame_out *out, const struct channels *c, struct err *err)
{
	struct iovec part = { (void *)(uintptr_t)c, sizeof(*c) };

	return frame_put(out, FRAME_CHANNELS, &part, 1, err);
}

static int take(struct frame_in *in, struct channels *ret, struct err *err)
{
	struct migrate_say say;
	struct frame f;
	int r = frame_get(in, &f, err);

	if (r < 0)
		return r;
	if (f.type == FRAME_CHANNELS && f.len_bytes == sizeof(*ret))
		memcpy(ret, f.bytes, sizeof(*ret));
	else
		r = migrate_words(&f, in->transport->peer, &say, err) < 0 ? -err->code :
		    err_set(err, EBADMSG, "%s says nothing of channels", in->transport->peer);
	free(f.bytes);
	return r;
}

/* ---- source ---- */

static int connect_one(const struct migrate_options *options, const struct transport *first, const struct channels *theirs, struct lanes *l,
		       struct err *err)
{
	struct transport *t = &l->transport[l->count];
	struct channels c = *theirs;
	struct frame_out out;
	int r = options->channel(options->channel_arg, first, theirs->port_or_index, t, err);

	if (r < 0)
		return r;
	c.port_or_index = l->count++;
	r = frame_out_begin_on(&out, t, err);
	return r < 0 ? r : put(&out, &c, err);
}

int channels_connect(const struct migrate_options *options, struct frame_out *out, struct frame_in *in, struct lanes *ret,
		     struct err *err)
{
	struct channels theirs;
	int r = take(in, &theirs, err);

	if (r < 0)
		return r;
	if (theirs.port_or_index > UINT16_MAX)
		return err_set(err, EBADMSG, "%s listens on port %u", in->transport->peer, theirs.port_or_index);
	if (theirs.port_or_index == 0) {
		log_warn("%s can take one connection only", in->transport->peer);
		return 0;
	}
	while (r == 0 && ret->count < options->channels)
		r = connect_one(options, in->transport, &theirs, ret, err);
	if (r == 0)
		lanes_begin_out(ret, out);
	return r;
}

/* ---- target ---- */

/* Those that have come; in any order. */
struct coming {
	const struct receive_options *options;
	const struct transport *first;
	struct channels ours;
	struct lanes *lanes;
	uint32_t wanted, count;
	bool there[FRAME_LANES_MAX];
};

/* Nobody comes any more when the source has gone. */
static int wait_for_one(const struct coming *c, int fd, struct err *err)
{
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = c->first->fd, .events = POLLRDHUP } };
	int n;

	do
		n = poll(p, 2, c->first->timeout_ms);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_sys(err, "wait for a channel");
	if (n == 0)
		return err_set(err, ETIMEDOUT, "%s has opened too few channels in %d s", c->first->peer, c->first->timeout_ms / 1000);
	if (p[1].revents)
		return err_set(err, ECONNRESET, "%s closed the connection", c->first->peer);
	return 0;
}

/* Which one it is.  A stranger has so long in all, whatever it sends. */
static int ask_who(const struct coming *c, struct transport *t, uint32_t *ret_index, struct err *err)
{
	struct channels theirs;
	struct frame_in in;
	int r;

	t->until_us = clock_us() + STRANGER_MS * 1000;
	r = c->options->shake_hands(c->options->channel_arg, t, err);
	if (r == 0)
		r = frame_in_begin_on(&in, t, err);
	if (r == 0)
		r = take(&in, &theirs, err);
	t->until_us = 0;
	if (r < 0)
		return r;
	*ret_index = theirs.port_or_index;
	return memcmp(theirs.number, c->ours.number, sizeof(theirs.number)) == 0 && *ret_index < c->wanted && !c->there[*ret_index] ? 0 :
	       err_set(err, EKEYREJECTED, "%s does not know the number", t->peer);
}

static int accept_one(struct coming *c, int fd, struct err *err)
{
	struct transport t;
	struct err why;
	uint32_t index;
	int r = wait_for_one(c, fd, err);

	if (r == 0)
		r = transport_accept(fd, &t, "the source", err);
	if (r < 0)
		return r;
	if (ask_who(c, &t, &index, &why) < 0) {
		log_warn("a channel that nobody asked for: %s", why.text);
		transport_close(&t);
		return 0;
	}
	t.timeout_ms = c->first->timeout_ms;
	c->lanes->transport[index] = t;
	c->there[index] = true;
	c->count++;
	return 0;
}

static int accept_all(struct coming *c, int fd, struct err *err)
{
	int r = 0;

	while (r == 0 && c->count < c->wanted)
		r = accept_one(c, fd, err);
	if (r == 0)
		c->lanes->count = c->wanted;
	for (uint32_t i = 0; r < 0 && i < c->wanted; i++)
		if (c->there[i])
			transport_close(&c->lanes->transport[i]);
	return r;
}

int channels_accept(const struct receive_options *options, uint32_t wanted, struct frame_out *out, struct frame_in *in,
		    struct lanes *ret, struct err *err)
{
	struct coming c = { .options = options, .first = in->transport, .lanes = ret, .wanted = wanted };
	unsigned int port = 0;
	own_fd fd = -1;
	int r = 0;

	if (wanted == 0)
		return 0;
	if (wanted > FRAME_LANES_MAX)
		return err_set(err, EBADMSG, "%s wants %u channels", in->transport->peer, wanted);
	if (getrandom(c.ours.number, sizeof(c.ours.number), 0) != sizeof(c.ours.number))
		return err_sys(err, "getrandom");
	if (options->listen)
		r = options->listen(options->channel_arg, in->transport, &fd, &port, err);
	c.ours.port_or_index = port;
	if (r == 0)
		r = put(out, &c.ours, err);
	if (r < 0 || fd < 0)
		return r;
	r = accept_all(&c, fd, err);
	if (r == 0)
		lanes_begin_in(ret, in);
	return r;
}
