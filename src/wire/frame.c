/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <linux/sockios.h>
#define XXH_STATIC_LINKING_ONLY          /* the state on the stack */
#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>    /* what this CPU has */
#endif

#include "base/clock.h"
#include "base/mem.h"
#include "base/own.h"
#include "wire/frame.h"
#include "wire/transport.h"

#define BURST_NS 5000000u       /* of a limit */
#define VERSION         1u
#define PIPE_BYTES      (1 << 20)
#define LENT_BYTES      4096u   /* of which a pipe has pieces */
#define DRAIN_NAP_NS    1000000
#define COPIES_AT       0x4652525943505900      /* "FRRYCPY": where a reader that copies has its lock */
#define LINK_MS         30000   /* without a sign from the other end's kernel */
#define ANSWER_MS       60000   /* all is there: only the last steps are missing */

static const char magic[8] = "ferrySTR";

struct head { char magic[8]; uint32_t version, flags; };
struct frame_head { uint32_t type, len_bytes; uint64_t sum, own_sum; };  /* of the bytes; of this head, in its place */
struct seal { uint64_t frames, bytes; };
struct answer { uint32_t failed; char text[252]; };

static uint64_t own_sum_of(const struct frame_head *head, uint64_t place)
{
	const uint64_t said[] = { htole64(place), htole64((uint64_t)le32toh(head->type) << 32 | le32toh(head->len_bytes)), head->sum };

	return XXH3_64bits(said, sizeof(said));
}

/*
 * Who is behind a TCP connection may vanish, or stop reading, without a word, while a program stands still for it: the kernel gives it
 * up (tcp(7); TCP_USER_TIMEOUT counts for a window that stays closed as well).  On anything else this fails.
 */
static void watch(int fd)
{
	const int on = 1, idle_s = LINK_MS / 1000, each_s = 5, times = 3;
	const unsigned int link_ms = LINK_MS;

	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &each_s, sizeof(each_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &link_ms, sizeof(link_ms));
}

/* A larger pipe is fewer turns between both ends. */
static void widen(int fd)
{
	if (fcntl(fd, F_GETPIPE_SZ) > 0)
		(void)fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES);
}

/*
 * A reader that splices would go on referring to pages that are written anew here; one that has this lock does not.  A
 * lock is the one thing that both ends of a pipe see, and goes with its reader.
 */
static void say_that_we_copy(int fd)
{
	struct flock lock = { .l_type = F_RDLCK, .l_start = COPIES_AT, .l_len = 1 };

	if (fcntl(fd, F_GETPIPE_SZ) > 0)
		(void)fcntl(fd, F_OFD_SETLK, &lock);
}

static bool reader_copies(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_start = COPIES_AT, .l_len = 1 };

	return fcntl(fd, F_GETPIPE_SZ) > 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_RDLCK && lock.l_len == 1;
}

/* Descriptors that somebody made non-blocking are waited for. */
static bool waited(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	if (errno == EAGAIN)
		while (poll(&p, 1, -1) < 0 && errno == EINTR)
			;
	return errno == EINTR || errno == EAGAIN;
}

/* ---- out ---- */

/* Takes what was written out of the parts. */
static size_t advance(struct iovec *at, size_t count, size_t n)
{
	size_t gone = 0;

	while (gone < count && n >= at[gone].iov_len)
		n -= at[gone++].iov_len;
	if (gone < count) {
		at[gone].iov_base = (char *)at[gone].iov_base + n;
		at[gone].iov_len -= n;
	}
	return gone;
}

static bool is_pages(const struct iovec *part)
{
	return ((uintptr_t)part->iov_base | part->iov_len) % LENT_BYTES == 0;
}

/* Parts of one kind. */
static ssize_t write_some(const struct frame_out *out, const struct iovec *at, size_t count)
{
	bool pages = out->lends && is_pages(at);
	size_t n = 1;

	while (out->lends && n < count && is_pages(&at[n]) == pages)
		n++;
	return pages ? vmsplice(out->fd, at, n, 0) : writev(out->fd, at, (int)(out->lends ? n : count));
}

/* A bucket of BURST_NS: what was not used in that time is no credit. */
static void wait_turn(struct frame_out *out, const struct iovec *parts, size_t count)
{
	uint64_t now = clock_ns(), bytes = 0;

	for (size_t i = 0; i < count; i++)
		bytes += parts[i].iov_len;
	if (out->free_ns + BURST_NS < now)
		out->free_ns = now - BURST_NS;
	if (out->free_ns > now) {
		struct timespec until = { .tv_sec = (time_t)(out->free_ns / 1000000000u), .tv_nsec = (long)(out->free_ns % 1000000000u) };

		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
			;
	}
	out->free_ns += (uint64_t)((double)bytes * 1e9 / (double)out->limit);
}

static int write_fd(struct frame_out *out, struct iovec *at, size_t count, struct err *err)
{
	while (count > 0) {
		ssize_t n = write_some(out, at, count);
		size_t gone;

		if (n < 0 && waited(out->fd, POLLOUT))
			continue;
		if (n < 0)
			return errno == EPIPE || errno == ECONNRESET ? err_set(err, EPIPE, "the stream's reader has gone") :
								       err_sys(err, "write the stream");
		gone = advance(at, count, (size_t)n);
		at += gone;
		count -= gone;
	}
	return 0;
}

/* What was put counts, whether it went or not. */
static int write_parts(struct frame_out *out, struct frame_place *place, struct iovec *at, size_t count, struct err *err)
{
	struct transport *t = out->lanes ? out->lane[place->number % out->lanes].transport : out->transport;
	uint64_t from = clock_ns();
	size_t bytes = 0;
	int r;

	for (size_t i = 0; i < count; i++)
		bytes += at[i].iov_len;
	r = t ? transport_send(t, at, (int)count, err) : write_fd(out, at, count, err);
	for (unsigned int i = 0; r < 0 && i < out->lanes; i++)  /* else who writes to another one waits for a reader who waits for us */
		(void)shutdown(out->lane[i].transport->fd, SHUT_RDWR);
	place->wait_ns = clock_ns() - from;
	place->bytes = bytes;
	pthread_mutex_lock(&out->lock);
	if (r < 0 && out->failed.code == 0)
		out->failed = *err;
	out->bytes += bytes;
	place->end = out->bytes;
	pthread_mutex_unlock(&out->lock);
	return r;
}

static int begin_out(struct frame_out *out, struct err *err)
{
	struct head head = { .version = htole32(VERSION) };
	struct iovec part = { &head, sizeof(head) };

	memcpy(head.magic, magic, sizeof(magic));
	return write_parts(out, &(struct frame_place){ 0 }, &part, 1, err);
}

int frame_out_begin(struct frame_out *out, int fd, struct err *err)
{
	*out = (struct frame_out){ .fd = fd, .turn = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER };
	widen(fd);
	watch(fd);
	return begin_out(out, err);
}

int frame_out_begin_on(struct frame_out *out, struct transport *t, struct err *err)
{
	*out = (struct frame_out){ .fd = -1, .transport = t, .turn = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER };
	return begin_out(out, err);
}

static uint64_t sum_of(const struct iovec *parts, size_t count)
{
	XXH3_state_t state;

	if (count == 1)
		return XXH3_64bits(parts->iov_base, parts->iov_len);
	XXH3_INITSTATE(&state);         /* a reset believes what it finds: a seed that was there before, and its secret */
	XXH3_64bits_reset(&state);
	for (size_t i = 0; i < count; i++)
		XXH3_64bits_update(&state, parts[i].iov_base, parts[i].iov_len);
	return XXH3_64bits_digest(&state);
}

static pthread_mutex_t *turn_of(struct frame_out *out, uint64_t number)
{
	return out->lanes ? &out->lane[number % out->lanes].lock : &out->turn;
}

void frame_reserve(struct frame_out *out, struct frame_place *ret_place)
{
	*ret_place = (struct frame_place){ .number = out->frames };
	pthread_mutex_lock(turn_of(out, out->frames));
	out->frames++;
}

/* The limit is of all lanes.  Who comes after one that waited in vain does not wait as long once more. */
static int before_it_goes(struct frame_out *out, const struct iovec *parts, size_t count, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&out->lock);
	if (out->failed.code) {
		*err = out->failed;
		r = -err->code;
	} else if (out->limit) {
		wait_turn(out, parts, count);
	}
	if (r == 0 && out->sent)
		out->sent(out->sent_arg, out->bytes);
	pthread_mutex_unlock(&out->lock);
	return r;
}

static int measure(const struct iovec *parts, size_t count, size_t *ret_bytes, struct err *err)
{
	*ret_bytes = 0;
	for (size_t i = 0; i < count; i++)
		*ret_bytes += parts[i].iov_len;
	if (count > FRAME_PARTS_MAX || *ret_bytes > FRAME_BYTES_MAX)
		return err_set(err, EMSGSIZE, "a frame of %zu bytes", *ret_bytes);
	return 0;
}

static int put_measured(struct frame_out *out, struct frame_place *place, enum frame_type type, const struct iovec *parts, size_t count,
			size_t len_bytes, struct err *err)
{
	struct iovec all[1 + FRAME_PARTS_MAX];
	struct frame_head head = { .type = htole32(type), .len_bytes = htole32((uint32_t)len_bytes) };
	int r;

	head.sum = htole64(sum_of(parts, count));
	head.own_sum = htole64(own_sum_of(&head, place->number));
	all[0] = (struct iovec){ &head, sizeof(head) };
	for (size_t i = 0; i < count; i++)
		all[1 + i] = parts[i];
	r = before_it_goes(out, all, count + 1, err);
	return r < 0 ? r : write_parts(out, place, all, count + 1, err);
}

static int put_at(struct frame_out *out, struct frame_place *place, enum frame_type type, const struct iovec *parts, size_t count,
		  struct err *err)
{
	size_t len_bytes;
	int r = measure(parts, count, &len_bytes, err);

	return r < 0 ? r : put_measured(out, place, type, parts, count, len_bytes, err);
}

int frame_put_at(struct frame_out *out, struct frame_place *place, enum frame_type type, const struct iovec *parts, size_t count,
		 struct err *err)
{
	int r = put_at(out, place, type, parts, count, err);

	pthread_mutex_unlock(turn_of(out, place->number));
	return r;
}

int frame_lend_at(struct frame_out *out, struct frame_place *place, enum frame_type type, const struct iovec *parts, size_t count,
		  struct err *err)
{
	bool lends = !out->transport && reader_copies(out->fd);
	int r;

	out->lends = lends;
	r = put_at(out, place, type, parts, count, err);
	out->lends = false;
	pthread_mutex_unlock(turn_of(out, place->number));
	return r < 0 ? r : lends;
}

int frame_put(struct frame_out *out, enum frame_type type, const struct iovec *parts, size_t count, struct err *err)
{
	struct frame_place place;
	size_t len_bytes;
	int r = measure(parts, count, &len_bytes, err);

	if (r < 0)
		return r;
	frame_reserve(out, &place);
	r = put_measured(out, &place, type, parts, count, len_bytes, err);
	pthread_mutex_unlock(turn_of(out, place.number));
	return r;
}

/* POLLERR: no reader is left. */
bool frame_was_read(const struct frame_out *out, uint64_t put, uint64_t until)
{
	struct pollfd p = { .fd = out->fd };
	int left = 0;

	if (ioctl(out->fd, FIONREAD, &left) < 0 || until + (uint64_t)left <= put)
		return true;
	return poll(&p, 1, 0) > 0 && p.revents & POLLERR;
}

static bool all_was_read(int fd, bool fifo)
{
	int left = 0;

	return ioctl(fd, fifo ? FIONREAD : SIOCOUTQ, &left) < 0 || left == 0;
}

/* -EPIPE: nobody will read what is there.  Who can answer may do so, or hang up, at any time: that tells more. */
static int wait_until_read(int fd, struct err *err)
{
	const struct timespec nap = { .tv_nsec = DRAIN_NAP_NS };
	struct stat st;
	bool fifo;

	if (fstat(fd, &st) < 0 || !(S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)))
		return 0;
	fifo = S_ISFIFO(st.st_mode);
	while (!all_was_read(fd, fifo)) {
		struct pollfd p = { .fd = fd, .events = fifo ? 0 : POLLIN };
		bool told = poll(&p, 1, 0) > 0;

		if (told && !fifo)
			return 0;
		if (told && p.revents & POLLERR && !all_was_read(fd, fifo))     /* it may have read all since we looked */
			return err_set(err, EPIPE, "the stream's reader has gone before it read all");
		nanosleep(&nap, NULL);
	}
	return 0;
}

int frame_out_seal(struct frame_out *out, struct err *err)
{
	struct seal seal = { htole64(out->frames), htole64(out->bytes) };
	struct iovec part = { &seal, sizeof(seal) };
	int r = frame_put(out, FRAME_SEAL, &part, 1, err);

	return r < 0 ? r : wait_until_read(out->fd, err);
}

/* ---- the way back ---- */

static bool is_socket(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

void frame_answer(int fd, const char *text)
{
	struct answer answer = { .failed = text != NULL };

	if (!is_socket(fd))
		return;
	snprintf(answer.text, sizeof(answer.text), "%s", text ? text : "");
	(void)!send(fd, &answer, sizeof(answer), MSG_NOSIGNAL);
}

/* 1: *ret is what the reader says; 0: it has not said it within that time. */
static int take_answer(int fd, int timeout_ms, struct answer *ret)
{
	uint64_t until_ns = clock_ns() + (uint64_t)timeout_ms * 1000000u;
	size_t done = 0;

	while (done < sizeof(*ret)) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		uint64_t now = clock_ns();
		int ready = poll(&p, 1, now < until_ns ? (int)((until_ns - now) / 1000000u) : 0);
		ssize_t n = ready > 0 ? recv(fd, (char *)ret + done, sizeof(*ret) - done, MSG_DONTWAIT) : 0;

		if ((ready < 0 && errno == EINTR) || (n < 0 && (errno == EINTR || errno == EAGAIN)))
			continue;
		if (ready <= 0 || n <= 0)
			return 0;
		done += (size_t)n;
	}
	ret->text[sizeof(ret->text) - 1] = '\0';
	for (char *c = ret->text; *c; c++)
		*c = (unsigned char)*c < ' ' ? '?' : *c;        /* it goes to a terminal */
	return 1;
}

int frame_wait_answer(int fd, struct err *err)
{
	struct answer answer;

	if (!is_socket(fd))
		return 0;
	if (take_answer(fd, ANSWER_MS, &answer) == 0)
		return err_set(err, EPIPE, "the stream's reader did not say what became of it");
	return answer.failed ? err_set(err, EREMOTEIO, "the stream's reader: %s", answer.text) : 0;
}

int frame_failed(int fd, struct err *err)
{
	struct answer answer;

	if ((err->code == EPIPE || err->code == ECONNRESET) && is_socket(fd) && take_answer(fd, 0, &answer) && answer.failed)
		return err_set(err, EREMOTEIO, "the stream's reader: %s", answer.text);
	return -err->code;
}

/* ---- in ---- */

static int read_exactly(struct frame_in *in, void *buf, size_t len_bytes, struct err *err)
{
	const struct iovec whole = { buf, len_bytes };

	if (in->transport && len_bytes > 0) {
		int r = transport_receive(in->transport, &whole, 1, err);

		if (r <= 0)
			return r < 0 ? r : err_set(err, ECONNRESET, "%s closed the connection", in->transport->peer);
		in->bytes += len_bytes;
		return 0;
	}
	for (size_t done = 0; done < len_bytes;) {
		ssize_t n = read(in->fd, (char *)buf + done, len_bytes - done);

		if (n < 0 && waited(in->fd, POLLIN))
			continue;
		if (n < 0)
			return err_sys(err, "read the stream");
		if (n == 0)
			return err_set(err, EBADMSG, "the stream was cut after %llu bytes",
				       (unsigned long long)(in->bytes + done));
		done += (size_t)n;
	}
	in->bytes += len_bytes;
	return 0;
}

bool frame_is_stream(int fd)
{
	char begin[sizeof(magic)];

	return pread(fd, begin, sizeof(begin), 0) == (ssize_t)sizeof(begin) && memcmp(begin, magic, sizeof(magic)) == 0;
}

static int begin_in(struct frame_in *in, struct err *err)
{
	struct head head;
	int r;

	r = read_exactly(in, &head, sizeof(head), err);
	if (r < 0)
		return r;
	if (memcmp(head.magic, magic, sizeof(magic)) != 0)
		return err_set(err, EBADMSG, "this is no stream of ferry's");
	if (le32toh(head.version) != VERSION || head.flags)
		return err_set(err, EBADMSG, "this stream is of version %u, from a newer ferry", le32toh(head.version));
	return 0;
}

int frame_in_begin(struct frame_in *in, int fd, struct err *err)
{
	*in = (struct frame_in){ .fd = fd };
	widen(fd);
	watch(fd);
	say_that_we_copy(fd);
	return begin_in(in, err);
}

int frame_in_begin_on(struct frame_in *in, struct transport *t, struct err *err)
{
	*in = (struct frame_in){ .fd = -1, .transport = t };
	return begin_in(in, err);
}

int frame_check(const struct frame *f, struct err *err)
{
	if (XXH3_64bits(f->bytes, f->len_bytes) != f->sum)
		return err_set(err, EBADMSG, "the stream is damaged: a checksum does not match");
	return 0;
}

static int take_seal(struct frame_in *in, const struct frame *f, uint64_t bytes_before, struct err *err)
{
	struct seal seal;

	if (f->len_bytes != sizeof(seal))
		return err_set(err, EBADMSG, "the stream's seal is broken");
	memcpy(&seal, f->bytes, sizeof(seal));
	if (le64toh(seal.frames) != in->frames || le64toh(seal.bytes) != bytes_before)
		return err_set(err, EBADMSG, "the stream's seal is another one's");
	in->sealed = true;
	return 0;
}

static int get_one(struct frame_in *in, struct frame *ret, struct err *err);

/* It comes where its number says, or what comes there is not it. */
static int get_from_lane(struct frame_in *in, struct frame *ret, struct err *err)
{
	struct frame_in *lane = &in->lane[in->frames % in->lanes];
	uint64_t bytes_before = lane->bytes;
	int r = get_one(lane, ret, err);

	if (r < 0)
		return r;
	in->frames++;
	in->bytes += lane->bytes - bytes_before;
	return 0;
}

static int get_one(struct frame_in *in, struct frame *ret, struct err *err)
{
	uint64_t bytes_before = in->bytes;
	own_free uint8_t *bytes = NULL;
	struct frame_head head;
	struct frame f;
	int r;

	if (in->sealed)
		return err_set(err, EBADMSG, "the stream is at its end");
	if (in->lanes)
		return get_from_lane(in, ret, err);
	r = read_exactly(in, &head, sizeof(head), err);
	if (r < 0)
		return r;
	f = (struct frame){ .type = le32toh(head.type), .len_bytes = le32toh(head.len_bytes), .sum = le64toh(head.sum) };
	if (le64toh(head.own_sum) != own_sum_of(&head, in->frames) || f.len_bytes > FRAME_BYTES_MAX || !frame_type_is_known(f.type))
		return err_set(err, EBADMSG, "the stream is damaged at byte %llu", (unsigned long long)bytes_before);
	bytes = malloc(f.len_bytes ? f.len_bytes : 1);
	if (!bytes)
		mem_out();
	r = read_exactly(in, bytes, f.len_bytes, err);
	f.bytes = bytes;
	if (r == 0 && f.type != FRAME_PAGES)
		r = frame_check(&f, err);
	if (r == 0 && f.type == FRAME_SEAL)
		r = take_seal(in, &f, bytes_before, err);
	if (r < 0)
		return r;
	in->frames += in->step ? in->step : 1;
	*ret = f;
	ret->bytes = TAKE_PTR(bytes);
	return 0;
}

int frame_get(struct frame_in *in, struct frame *ret, struct err *err)
{
	for (;;) {
		int r = get_one(in, ret, err);

		if (r < 0 || ret->type != FRAME_ALIVE)
			return r;
		free(ret->bytes);
	}
}
