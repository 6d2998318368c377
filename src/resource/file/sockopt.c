/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "base/mem.h"
#include "base/own.h"
#include "resource/file/sockopt.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72          /* 5.15 and later */
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76         /* 6.5 and later */
#endif

#define FILTER_MAX 4096u        /* BPF_MAXINSNS */

/*
 * In the order of make: what one option does to another is done by then (a low water mark grows the receive
 * buffer, setting a buffer's size locks it).
 */
enum { REUSEADDR, ROWS = SOCK_OPTS_NAMED };

#define FIELD(field) offsetof(SkOptsEntry, has_##field), offsetof(SkOptsEntry, field)
#define ALWAYS(field) 0, offsetof(SkOptsEntry, field)

static const struct named {
	const char *what;
	int level, name;
	int64_t max;
	size_t has, value;      /* where in the record; has 0: a required field */
	bool silent_zero;       /* not told when 0 */
	bool is_bool;
} named[ROWS] = {
	[REUSEADDR] = { "SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, 1, FIELD(reuseaddr), .is_bool = true },
	{ "SO_REUSEPORT", SOL_SOCKET, SO_REUSEPORT, 1, FIELD(so_reuseport), .is_bool = true },
	{ "SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, INT_MAX, FIELD(so_priority) },
	{ "SO_MARK", SOL_SOCKET, SO_MARK, UINT32_MAX, FIELD(so_mark), .silent_zero = true },
	{ "SO_PASSCRED", SOL_SOCKET, SO_PASSCRED, 1, FIELD(so_passcred), .is_bool = true },
	{ "SO_PASSSEC", SOL_SOCKET, SO_PASSSEC, 1, FIELD(so_passsec), .is_bool = true },
	{ "SO_DONTROUTE", SOL_SOCKET, SO_DONTROUTE, 1, FIELD(so_dontroute), .is_bool = true },
	{ "SO_NO_CHECK", SOL_SOCKET, SO_NO_CHECK, 1, FIELD(so_no_check), .is_bool = true },
	{ "SO_BROADCAST", SOL_SOCKET, SO_BROADCAST, 1, FIELD(so_broadcast), .is_bool = true },
	{ "SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, 1, FIELD(so_keepalive), .is_bool = true },
	{ "SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, 1, FIELD(so_oobinline) },
	{ "SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, INT_MAX, FIELD(so_rcvlowat) },
	/* as the kernel tells them: twice of what was asked for */
	{ "SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, INT_MAX, ALWAYS(so_sndbuf) },
	{ "SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, INT_MAX, ALWAYS(so_rcvbuf) },
	{ "TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, 127, FIELD(tcp_keepcnt) },
	{ "TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, 32767, FIELD(tcp_keepidle) },
	{ "TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, 32767, FIELD(tcp_keepintvl) },
	{ "SO_BUF_LOCK", SOL_SOCKET, SO_BUF_LOCK, 3, FIELD(so_buf_lock) },
};

/* Saved where they are not what a new socket has. */
static const struct extra { int level, name, usual; const char *what; } extras[] = {
	{ SOL_SOCKET, SO_PEEK_OFF, -1, "SO_PEEK_OFF" },
	{ SOL_SOCKET, SO_TIMESTAMP, 0, "SO_TIMESTAMP" },
	{ SOL_SOCKET, SO_TIMESTAMPNS, 0, "SO_TIMESTAMPNS" },
	{ SOL_SOCKET, SO_RXQ_OVFL, 0, "SO_RXQ_OVFL" },
	{ SOL_SOCKET, SO_ZEROCOPY, 0, "SO_ZEROCOPY" },
	{ SOL_SOCKET, SO_PASSPIDFD, 0, "SO_PASSPIDFD" },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, 0, "TCP_DEFER_ACCEPT" },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, 0, "TCP_USER_TIMEOUT" },
	{ IPPROTO_TCP, TCP_FASTOPEN, 0, "TCP_FASTOPEN" },
	{ IPPROTO_IP, IP_RECVERR, 0, "IP_RECVERR" },
	{ IPPROTO_IP, IP_RECVTTL, 0, "IP_RECVTTL" },
	{ IPPROTO_IP, IP_RECVTOS, 0, "IP_RECVTOS" },
	{ IPPROTO_IP, IP_TRANSPARENT, 0, "IP_TRANSPARENT" },
	{ IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 0, "IP_BIND_ADDRESS_NO_PORT" },
	{ IPPROTO_IPV6, IPV6_RECVERR, 0, "IPV6_RECVERR" },
	{ IPPROTO_IPV6, IPV6_RECVTCLASS, 0, "IPV6_RECVTCLASS" },
	{ IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 0, "IPV6_RECVHOPLIMIT" },
	{ IPPROTO_IPV6, IPV6_TCLASS, 0, "IPV6_TCLASS" },
};

int sock_opt_get(int fd, int level, int name, int *ret_value)
{
	socklen_t len = sizeof(*ret_value);
	int value = 0;

	if (getsockopt(fd, level, name, &value, &len) < 0)
		return errno == EOPNOTSUPP || errno == EINVAL ? -ENOPROTOOPT : err_below_0(-errno);
	*ret_value = value;
	return 0;
}

int sock_opt_set(int fd, int level, int name, int value, const char *what, struct err *err)
{
	int now;

	if (sock_opt_get(fd, level, name, &now) == 0 && now == value)
		return 0;
	if (setsockopt(fd, level, name, &value, sizeof(value)) < 0)
		return err_sys(err, "set %s to %d", what, value);
	return 0;
}

/* ---- see ---- */

static int see_filter(int fd, struct sock_opts *opts, struct err *err)
{
	struct sock_filter code[FILTER_MAX];
	socklen_t count = FILTER_MAX;

	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, code, &count) < 0) {
		if (errno == EACCES)
			return err_set(err, EOPNOTSUPP, "socket has an eBPF filter");
		return err_sys(err, "ask for the filter");
	}
	for (socklen_t i = 0; i < count && i < FILTER_MAX; i++)
		vec_push(&opts->filter, code[i]);
	return 0;
}

static void see_extra(int fd, int domain, int protocol, struct sock_opts *opts)
{
	int value;

	for (size_t i = 0; i < ARRAY_LEN(extras); i++) {
		if ((extras[i].level == IPPROTO_TCP && protocol != IPPROTO_TCP) ||
		    (extras[i].level == IPPROTO_IP && domain == AF_UNIX) ||
		    (extras[i].level == IPPROTO_IPV6 && domain != AF_INET6))
			continue;
		if (sock_opt_get(fd, extras[i].level, extras[i].name, &value) < 0 || value == extras[i].usual)
			continue;
		vec_push(&opts->extra, ((struct sock_extra){ extras[i].level, extras[i].name, value }));
	}
}

static int see_timeout(int fd, int name, struct timeval *ret_timeout, struct err *err)
{
	socklen_t len = sizeof(*ret_timeout);

	return getsockopt(fd, SOL_SOCKET, name, ret_timeout, &len) < 0 ? err_sys(err, "ask for a timeout") : 0;
}

int sock_opts_see(int fd, struct sock_opts *ret_opts, struct err *err)
{
	struct sock_opts opts = { .linger_s = SOCK_OPT_NONE };
	struct linger linger = { 0 };
	socklen_t len = sizeof(linger), name_len = sizeof(opts.device);
	int value, domain, protocol, r;

	if ((r = sock_opt_get(fd, SOL_SOCKET, SO_DOMAIN, &domain)) < 0 ||
	    (r = sock_opt_get(fd, SOL_SOCKET, SO_PROTOCOL, &protocol)) < 0)
		return err_set(err, -r, "not a socket: %s", strerror(-r));
	for (size_t i = 0; i < ROWS; i++) {
		opts.value[i] = SOCK_OPT_NONE;
		if (sock_opt_get(fd, named[i].level, named[i].name, &value) == 0 && !(named[i].silent_zero && value == 0))
			opts.value[i] = named[i].is_bool ? value != 0 : (uint32_t)value;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len) == 0 && linger.l_onoff)
		opts.linger_s = linger.l_linger;
	if (getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, opts.device, &name_len) < 0)
		opts.device[0] = '\0';
	if ((r = see_timeout(fd, SO_SNDTIMEO, &opts.send_timeout, err)) < 0 ||
	    (r = see_timeout(fd, SO_RCVTIMEO, &opts.receive_timeout, err)) < 0 ||
	    (r = see_filter(fd, &opts, err)) < 0)
		return r;
	see_extra(fd, domain, protocol, &opts);
	*ret_opts = opts;
	return 0;
}

bool sock_opts_reuse(const struct sock_opts *opts)
{
	return opts->value[REUSEADDR] > 0;
}

void sock_opts_drop(struct sock_opts *opts)
{
	vec_free(&opts->filter);
	vec_free(&opts->extra);
}

/* ---- save and load ---- */

static void save_filter(const struct sock_opts *opts, SkOptsEntry *rec)
{
	rec->n_so_filter = opts->filter.len;
	rec->so_filter = opts->filter.len ? mem_dup(opts->filter.at, opts->filter.len * sizeof(*opts->filter.at)) : NULL;
	rec->n_extra = opts->extra.len;
	rec->extra = opts->extra.len ? mem_new(opts->extra.len * sizeof(*rec->extra)) : NULL;
	for (size_t i = 0; i < opts->extra.len; i++) {
		SkExtraOpt *extra = rec->extra[i] = mem_new(sizeof(*extra));

		sk_extra_opt__init(extra);
		extra->level = (uint32_t)opts->extra.at[i].level;
		extra->name = (uint32_t)opts->extra.at[i].name;
		extra->value = opts->extra.at[i].value;
	}
}

_Static_assert(sizeof(struct sock_filter) == sizeof(uint64_t), "a filter's instruction is one fixed64");
_Static_assert(sizeof(protobuf_c_boolean) == sizeof(uint32_t), "fields of `named` are written alike");

SkOptsEntry *sock_opts_save(const struct sock_opts *opts)
{
	SkOptsEntry *rec = mem_new(sizeof(*rec));

	sk_opts_entry__init(rec);
	for (size_t i = 0; i < ROWS; i++) {
		int64_t value = opts->value[i];

		if (value == SOCK_OPT_NONE)
			continue;
		*(uint32_t *)((char *)rec + named[i].value) = (uint32_t)value;
		if (named[i].has)
			*(protobuf_c_boolean *)((char *)rec + named[i].has) = true;
	}
	rec->has_so_linger = opts->linger_s != SOCK_OPT_NONE;
	rec->so_linger = rec->has_so_linger ? (uint32_t)opts->linger_s : 0;
	rec->so_snd_tmo_sec = (uint64_t)opts->send_timeout.tv_sec;
	rec->so_snd_tmo_usec = (uint64_t)opts->send_timeout.tv_usec;
	rec->so_rcv_tmo_sec = (uint64_t)opts->receive_timeout.tv_sec;
	rec->so_rcv_tmo_usec = (uint64_t)opts->receive_timeout.tv_usec;
	rec->so_bound_dev = opts->device[0] ? mem_str(opts->device) : NULL;
	save_filter(opts, rec);
	return rec;
}

static int load_timeout(uint64_t sec, uint64_t usec, struct timeval *ret_timeout, struct err *err)
{
	if (sec > INT64_MAX || usec >= 1000000)
		return err_set(err, EBADMSG, "socket timeout of %llu s, %llu us", (unsigned long long)sec, (unsigned long long)usec);
	*ret_timeout = (struct timeval){ .tv_sec = (time_t)sec, .tv_usec = (suseconds_t)usec };
	return 0;
}

static int load_extra(const SkExtraOpt *rec, struct sock_opts *opts, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(extras); i++)
		if (rec->level == extras[i].level && rec->name == extras[i].name) {
			vec_push(&opts->extra, ((struct sock_extra){ extras[i].level, extras[i].name, rec->value }));
			return 0;
		}
	return err_set(err, EBADMSG, "socket option %u of level %u is none that is known", rec->name, rec->level);
}

static int load_lists(const SkOptsEntry *rec, struct sock_opts *opts, struct err *err)
{
	int r = 0;

	if (rec->n_so_filter > FILTER_MAX || rec->n_extra > ARRAY_LEN(extras))
		return err_set(err, EBADMSG, "socket filter of %zu instructions, %zu more options", rec->n_so_filter, rec->n_extra);
	for (size_t i = 0; i < rec->n_so_filter; i++)
		memcpy(vec_add(&opts->filter), &rec->so_filter[i], sizeof(rec->so_filter[i]));
	for (size_t i = 0; i < rec->n_extra && r == 0; i++)
		r = load_extra(rec->extra[i], opts, err);
	return r;
}

static int load_named(const SkOptsEntry *rec, struct sock_opts *opts, struct err *err)
{
	for (size_t i = 0; i < ROWS; i++) {
		const char *at = (const char *)rec;

		opts->value[i] = SOCK_OPT_NONE;
		if ((named[i].has && !*(const protobuf_c_boolean *)(at + named[i].has)))
			continue;
		opts->value[i] = *(const uint32_t *)(at + named[i].value);
		if (named[i].is_bool)
			opts->value[i] = opts->value[i] != 0;
		if (opts->value[i] > named[i].max)
			return err_set(err, EBADMSG, "%s is %lld", named[i].what, (long long)opts->value[i]);
	}
	return 0;
}

int sock_opts_load(const SkOptsEntry *rec, struct sock_opts *ret_opts, struct err *err)
{
	struct sock_opts opts = { .linger_s = SOCK_OPT_NONE };
	int r;

	if (!rec)
		return err_set(err, EBADMSG, "socket record has no options");
	if (rec->so_bound_dev && strlen(rec->so_bound_dev) >= IFNAMSIZ)
		return err_set(err, EBADMSG, "socket is bound to device '%.40s'", rec->so_bound_dev);
	if (rec->has_so_linger && rec->so_linger > INT_MAX)
		return err_set(err, EBADMSG, "SO_LINGER is %u", rec->so_linger);
	if (rec->so_bound_dev)
		strcpy(opts.device, rec->so_bound_dev);
	if (rec->has_so_linger)
		opts.linger_s = rec->so_linger;
	if ((r = load_named(rec, &opts, err)) < 0 ||
	    (r = load_timeout(rec->so_snd_tmo_sec, rec->so_snd_tmo_usec, &opts.send_timeout, err)) < 0 ||
	    (r = load_timeout(rec->so_rcv_tmo_sec, rec->so_rcv_tmo_usec, &opts.receive_timeout, err)) < 0 ||
	    (r = load_lists(rec, &opts, err)) < 0) {
		sock_opts_drop(&opts);
		return r;
	}
	*ret_opts = opts;
	return 0;
}

/* ---- make ---- */

/* `bytes` as the kernel tells it.  Where we may not pass the limits of the system, what they allow has to do. */
static int set_buffer(int fd, int name, int bytes, struct err *err)
{
	int force = name == SO_SNDBUF ? SO_SNDBUFFORCE : SO_RCVBUFFORCE, half = bytes / 2, now;

	if (sock_opt_get(fd, SOL_SOCKET, name, &now) == 0 && now == bytes)
		return 0;
	if (setsockopt(fd, SOL_SOCKET, force, &half, sizeof(half)) < 0 &&
	    (errno != EPERM || setsockopt(fd, SOL_SOCKET, name, &half, sizeof(half)) < 0))
		return err_sys(err, "set %s to %d", name == SO_SNDBUF ? "SO_SNDBUF" : "SO_RCVBUF", half);
	return 0;
}

int sock_room(int fd, size_t bytes, struct err *err)
{
	size_t want = bytes > INT_MAX / 8 ? INT_MAX : bytes * 4 + 65536;
	int now;

	if (sock_opt_get(fd, SOL_SOCKET, SO_SNDBUF, &now) == 0 && (size_t)now >= want)
		return 0;
	return set_buffer(fd, SO_SNDBUF, (int)want, err);
}

static int make_named(int fd, const struct named *n, int64_t value, struct err *err)
{
	if (value == SOCK_OPT_NONE)
		return 0;
	if (n->name == SO_SNDBUF || n->name == SO_RCVBUF)
		return set_buffer(fd, n->name, (int)value, err);
	return sock_opt_set(fd, n->level, n->name, (int)value, n->what, err);
}

static int make_timeout(int fd, int name, const struct timeval *timeout, struct err *err)
{
	if (timeout->tv_sec == 0 && timeout->tv_usec == 0)
		return 0;
	return setsockopt(fd, SOL_SOCKET, name, timeout, sizeof(*timeout)) < 0 ? err_sys(err, "set a timeout") : 0;
}

static int make_rest(int fd, const struct sock_opts *opts, struct err *err)
{
	const struct linger linger = { .l_onoff = 1, .l_linger = (int)opts->linger_s };
	const struct sock_fprog filter = { .len = (unsigned short)opts->filter.len, .filter = opts->filter.at };

	if (opts->linger_s != SOCK_OPT_NONE && setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0)
		return err_sys(err, "set SO_LINGER");
	if (opts->device[0] && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, opts->device, sizeof(opts->device)) < 0)
		return err_sys(err, "bind to device %s", opts->device);
	if (filter.len && setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) < 0)
		return err_sys(err, "attach a filter of %u instructions", filter.len);
	return 0;
}

static int make_extra(int fd, const struct sock_opts *opts, struct err *err)
{
	for (size_t i = 0; i < opts->extra.len; i++) {
		const char *what = "an option";
		int r;

		for (size_t k = 0; k < ARRAY_LEN(extras); k++)
			if (extras[k].level == opts->extra.at[i].level && extras[k].name == opts->extra.at[i].name)
				what = extras[k].what;
		r = sock_opt_set(fd, opts->extra.at[i].level, opts->extra.at[i].name, opts->extra.at[i].value, what, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int sock_opts_make(int fd, const struct sock_opts *opts, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < ROWS && r == 0; i++)
		r = make_named(fd, &named[i], opts->value[i], err);
	if (r < 0 ||
	    (r = make_timeout(fd, SO_SNDTIMEO, &opts->send_timeout, err)) < 0 ||
	    (r = make_timeout(fd, SO_RCVTIMEO, &opts->receive_timeout, err)) < 0 ||
	    (r = make_rest(fd, opts, err)) < 0)
		return r;
	return make_extra(fd, opts, err);
}
