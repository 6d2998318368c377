/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "wire/ps_client.h"
#include "wire/ps_sum.h"

#define RUNS_SOME     96u       /* that go by one call */
#define LAST_WORDS_MS 2000      /* that a status may take behind a connection that broke */

static int server_failed(struct ps_client *c, int32_t status, struct err *err)
{
	/* its errno is no code of ours: what is forgiven here (ESRCH) would be something else there */
	if (status < 0 && status > -4096)
		return err_set(err, EREMOTEIO, "%s failed: %s", c->transport->peer, strerror(-status));
	return err_set(err, EBADMSG, "%s answers what is no answer (%d)", c->transport->peer, status);
}

static int receive_status(struct ps_client *c, int32_t *ret, struct err *err)
{
	int32_t raw = 0;
	const struct iovec iov = { &raw, sizeof(raw) };
	int r = transport_receive(c->transport, &iov, 1, err);

	if (r == 0)
		return err_set(err, ECONNRESET, "%s closed the connection", c->transport->peer);
	*ret = (int32_t)le32toh((uint32_t)raw);
	return r < 0 ? r : 0;
}

/* What broke may have an explanation on the way. */
static int explain(struct ps_client *c, int r, struct err *err)
{
	int timeout_ms = c->transport->timeout_ms;
	int32_t status;
	int got;

	if (r != -ECONNRESET)
		return r;
	c->transport->timeout_ms = LAST_WORDS_MS;
	got = receive_status(c, &status, &(struct err){ 0 });
	c->transport->timeout_ms = timeout_ms;
	return got == 0 && status < 0 ? server_failed(c, status, err) : r;
}

/* Nothing is due: what comes is the reason of an end. */
static int look(struct ps_client *c, struct err *err)
{
	struct pollfd fd = { .fd = c->transport->fd, .events = POLLIN };
	uint32_t raw;
	ssize_t n;

	if (poll(&fd, 1, 0) <= 0)
		return 0;
	n = transport_receive_some(c->transport, &raw, sizeof(raw), err);
	if (n <= 0)
		return (int)n;
	if (n < (ssize_t)sizeof(raw)) {
		const struct iovec rest = { (char *)&raw + n, sizeof(raw) - (size_t)n };

		if (transport_receive(c->transport, &rest, 1, err) <= 0)
			return err_set(err, ECONNRESET, "%s closed the connection", c->transport->peer);
	}
	return server_failed(c, (int32_t)le32toh(raw), err);
}

static int send_all(struct ps_client *c, const struct iovec *iov, int count, struct err *err)
{
	int r = look(c, err);

	if (r == 0)
		r = transport_send(c->transport, iov, count, err);
	return explain(c, r, err);
}

static int say(struct ps_client *c, const struct ps_message *m, struct err *err)
{
	uint8_t bytes[PS_HEADER_BYTES];

	ps_encode(m, bytes);
	c->sum = ps_sum_message(c->sum, m);
	return send_all(c, &(struct iovec){ bytes, sizeof(bytes) }, 1, err);
}

/* At most RUNS_SOME; *page_sums goes on. */
static int add_some(struct ps_client *c, const struct ps_run *runs, size_t count, const uint64_t **page_sums, struct err *err)
{
	uint8_t headers[RUNS_SOME][PS_HEADER_BYTES];
	struct iovec iov[2 * RUNS_SOME];
	int n = 0;

	for (size_t i = 0; i < count; i++) {
		const struct ps_run *run = &runs[i];
		struct ps_message m = { .command = PS_ADD, .type = c->type, .id = c->id, .start = run->start, .pages = run->pages,
					.where = run->bytes ? PS_HERE : PS_IN_PARENT };

		ps_encode(&m, headers[i]);
		c->sum = ps_sum_message(c->sum, &m);
		iov[n++] = (struct iovec){ headers[i], PS_HEADER_BYTES };
		if (!run->bytes)
			continue;
		c->sum = ps_sum_add(c->sum, *page_sums, run->pages);
		*page_sums += run->pages;
		iov[n++] = (struct iovec){ (void *)(uintptr_t)run->bytes, run->pages * PS_PAGE_BYTES };
	}
	return send_all(c, iov, n, err);
}

int ps_client_add(struct ps_client *c, const struct ps_run *runs, size_t count, const uint64_t *page_sums, struct err *err)
{
	int r = 0;

	for (size_t i = 0, n; r == 0 && i < count; i += n) {
		n = count - i < RUNS_SOME ? count - i : RUNS_SOME;
		r = add_some(c, runs + i, n, &page_sums, err);
	}
	return r;
}

static int ask_parent(struct ps_client *c, const struct ps_message *m, struct err *err)
{
	int32_t status = 0;
	int r = say(c, m, err);

	if (r == 0)
		r = receive_status(c, &status, err);
	if (r < 0)
		return r;
	return status == 0 || status == 1 ? status : server_failed(c, status, err);
}

/* A question whose answer means nothing. */
int ps_client_greet(struct ps_client *c, struct err *err)
{
	int r = ask_parent(c, &(struct ps_message){ .command = PS_PARENT, .type = PS_TASK, .id = 1, .summed = true }, err);

	return r < 0 ? r : 0;
}

int ps_client_has_parent(struct ps_client *c, enum ps_type type, uint64_t id, struct err *err)
{
	return ask_parent(c, &(struct ps_message){ .command = PS_PARENT, .type = type, .id = id }, err);
}

/* A status instead of the answer, of which we have the first byte. */
static int status_instead(struct ps_client *c, uint8_t first, struct err *err)
{
	uint8_t raw[4] = { first };
	uint32_t status;

	if (transport_receive(c->transport, &(struct iovec){ raw + 1, 3 }, 1, &(struct err){ 0 }) <= 0)
		return err_set(err, EBADMSG, "%s answers what is no answer (%u)", c->transport->peer, first);
	memcpy(&status, raw, sizeof(status));
	return server_failed(c, (int32_t)le32toh(status), err);
}

int ps_client_open(struct ps_client *c, enum ps_type type, uint64_t id, bool wants_parent, struct err *err)
{
	uint8_t has = 0;
	int r = say(c, &(struct ps_message){ .command = PS_OPEN2, .type = type, .id = id }, err);

	if (r < 0)
		return r;
	r = transport_receive(c->transport, &(struct iovec){ &has, 1 }, 1, err);
	if (r == 0)
		return err_set(err, ECONNRESET, "%s closed the connection", c->transport->peer);
	if (r < 0)
		return r;
	if (has > 1)
		return status_instead(c, has, err);
	if (wants_parent && !has)
		return err_set(err, EBADMSG, "%s has no parent directory any more", c->transport->peer);
	c->type = type;
	c->id = id;
	return 0;
}

int ps_client_close(struct ps_client *c, struct err *err)
{
	int32_t status = 0;
	const struct ps_message m = { .command = c->handed_over ? PS_FORCE_CLOSE : PS_CLOSE, .summed = true, .sum = c->sum };
	int r = say(c, &m, err);

	if (r == 0)
		r = receive_status(c, &status, err);
	if (r < 0)
		return r;
	return status == 0 ? 0 : server_failed(c, status, err);
}
