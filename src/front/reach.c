/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "front/reach.h"
#include "front/wire.h"

struct place { char host[256], port[16]; };

/* host:port, [address]:port */
static int parse_place(const char *text, struct place *ret, struct err *err)
{
	const char *colon = strrchr(text, ':'), *host = text;
	size_t len = colon ? (size_t)(colon - text) : 0;

	if (len > 2 && text[0] == '[' && text[len - 1] == ']') {
		host++;
		len -= 2;
	}
	if (len == 0 || len >= sizeof(ret->host) || !colon[1] || strlen(colon + 1) >= sizeof(ret->port))
		return err_set(err, EINVAL, "'%s' is no HOST:PORT", text);
	memcpy(ret->host, host, len);
	ret->host[len] = '\0';
	memcpy(ret->port, colon + 1, strlen(colon + 1) + 1);
	return 0;
}

static int load_identity(const struct options *options, struct tls_identity **ret, struct err *err)
{
	struct wire_options wire;

	wire_options(options, &wire);
	return tls_identity_load(&wire.tls, ret, err);
}

/* at: what is connected to; place->host: whose certificate is expected. */
static int connect_at(const struct options *options, const struct place *at, const struct place *place, bool tls, struct transport *ret,
		      struct err *err)
{
	struct tls_identity *identity = NULL;
	char what[300];
	int r = tls ? load_identity(options, &identity, err) : 0;

	*ret = (struct transport){ .fd = -1 };
	snprintf(what, sizeof(what), "%.40s:%.10s", place->host, place->port);
	if (r == 0)
		r = transport_connect(ret, at->host, at->port, what, err);
	if (r == 0 && tls)
		r = tls_start(ret, TLS_CONNECTED, identity, options->tls_no_cn_verify ? NULL : place->host, err);
	tls_identity_free(identity);
	if (r < 0)
		transport_close(ret);
	return r;
}

static int connect_to(const struct options *options, const char *text, bool tls, struct transport *ret, struct err *err)
{
	struct place place;
	int r = parse_place(text, &place, err);

	if (r < 0)
		return r;
	if (!tls && !options->allow_plaintext && !transport_is_local(place.host))
		return err_set(err, EINVAL, "tcp://%s: other machines only by tls:// or ssh://, or, where nobody else is on the network, "
			       "with --allow-plaintext", text);
	return connect_at(options, &place, &place, tls, ret, err);
}

/* ---- ssh ---- */

static void become_ssh(int socket, char **argv)
{
	if (dup2(socket, STDIN_FILENO) < 0 || dup2(socket, STDOUT_FILENO) < 0)
		_exit(127);
	execvp(argv[0], argv);
	fprintf(stderr, "ferry migrate: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static int run_ssh(const struct options *options, char *host, char *port, struct transport *ret, pid_t *ret_ssh, struct err *err)
{
	const char *ssh = getenv("FERRY_SSH"), *remote = getenv("FERRY_REMOTE");
	char *argv[12];
	int ends[2], n = 0;
	pid_t pid;

	argv[n++] = (char *)(uintptr_t)(ssh ? ssh : "ssh");
	if (port) {
		argv[n++] = "-p";
		argv[n++] = port;
	}
	argv[n++] = "--";
	argv[n++] = host;
	argv[n++] = (char *)(uintptr_t)(remote ? remote : "ferry");
	argv[n++] = "receive";
	argv[n++] = "--stdio";
	argv[n++] = "--restore-detached";
	if (options->shell_job)
		argv[n++] = "--shell-job";
	argv[n] = NULL;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(err, "socketpair");
	pid = fork();
	if (pid == 0)
		become_ssh(ends[1], argv);
	close(ends[1]);
	if (pid < 0) {
		close(ends[0]);
		return err_sys(err, "fork");
	}
	*ret_ssh = pid;
	return transport_adopt(ret, ends[0], host, err);
}

static bool begins(const char *text, const char *with, const char **ret_rest)
{
	size_t len = strlen(with);

	*ret_rest = text + len;
	return strncmp(text, with, len) == 0;
}

bool reach_is_ssh(const char *where)
{
	const char *rest;

	return begins(where, "ssh://", &rest) || (strchr(where, '@') && !strchr(where, ':') && !strchr(where, '/'));
}

int reach_ssh(const char *where, char **ret_host, char **ret_port, struct err *err)
{
	const char *rest;
	char *colon;

	*ret_host = mem_str(begins(where, "ssh://", &rest) ? rest : where);
	colon = strrchr(*ret_host, ':');
	*ret_port = colon ? colon + 1 : NULL;
	if (colon)
		*colon = '\0';
	if (!**ret_host || **ret_host == '-' || (colon && !colon[1]))
		return err_set(err, EINVAL, "ssh to '%s'?", where);
	return 0;
}

static int by_ssh(const struct options *options, const char *where, struct transport *ret, pid_t *ret_ssh, struct err *err)
{
	own_free char *host = NULL;
	char *port;
	int r = reach_ssh(where, &host, &port, err);

	return r < 0 ? r : run_ssh(options, host, port, ret, ret_ssh, err);
}

static int adopt(const char *number, struct transport *ret, struct err *err)
{
	char *end;
	long fd = strtol(number, &end, 10);

	if (!*number || *end || fd < 0 || fd > INT_MAX)
		return err_set(err, EINVAL, "'%s' is no descriptor", number);
	return transport_adopt(ret, (int)fd, "the other side", err);
}

int reach_target(const struct options *options, const char *where, struct transport *ret, pid_t *ret_ssh, struct err *err)
{
	const char *rest;
	int r;

	*ret_ssh = 0;
	*ret = (struct transport){ .fd = -1 };
	if (begins(where, "tls://", &rest))
		r = connect_to(options, rest, true, ret, err);
	else if (begins(where, "tcp://", &rest))
		r = connect_to(options, rest, false, ret, err);
	else if (begins(where, "unix:", &rest))
		r = transport_connect_unix(ret, rest, rest, err);
	else if (begins(where, "fd:", &rest))
		r = adopt(rest, ret, err);
	else if (reach_is_ssh(where))
		r = by_ssh(options, where, ret, ret_ssh, err);
	else
		r = err_set(err, EINVAL, "where is '%s'? There are user@host, ssh://, tls://, tcp://, unix:PATH and fd:N", where);
	if (r == 0)
		ret->timeout_ms = options->peer_timeout_s * 1000;
	return r;
}

/* ---- channels ---- */

bool reach_has_channels(const char *where)
{
	const char *rest;

	return begins(where, "tls://", &rest) || begins(where, "tcp://", &rest);
}

/* Which address: of this end, or of the other. */
static int address_of(const struct transport *t, bool other, char *ret, size_t size, struct err *err)
{
	struct sockaddr_storage at = { 0 };
	socklen_t len = sizeof(at);
	int r = other ? getpeername(t->fd, (struct sockaddr *)&at, &len) : getsockname(t->fd, (struct sockaddr *)&at, &len);

	if (r < 0)
		return err_sys(err, "ask for the address");
	if (at.ss_family != AF_INET && at.ss_family != AF_INET6)
		return err_set(err, EOPNOTSUPP, "it is no network connection");
	r = getnameinfo((struct sockaddr *)&at, len, ret, (socklen_t)size, NULL, 0, NI_NUMERICHOST);
	return r ? err_set(err, EADDRNOTAVAIL, "ask for the address: %s", gai_strerror(r)) : 0;
}

int reach_channel(const struct options *options, const char *where, const struct transport *first, unsigned int port, struct transport *ret,
		  struct err *err)
{
	struct place at, place;
	const char *rest = NULL;
	bool tls = begins(where, "tls://", &rest);
	int r;

	if (!tls && !begins(where, "tcp://", &rest))
		return err_set(err, EOPNOTSUPP, "%s: one connection only", where);
	r = parse_place(rest, &place, err);
	if (r == 0)
		r = address_of(first, true, at.host, sizeof(at.host), err);
	if (r < 0)
		return r;
	snprintf(at.port, sizeof(at.port), "%u", port);
	r = connect_at(options, &at, &place, tls, ret, err);
	if (r == 0)
		ret->timeout_ms = options->peer_timeout_s * 1000;
	return r;
}

int reach_listen_more(const struct reach_door *door, const struct transport *first, int *ret_fd, unsigned int *ret_port, struct err *err)
{
	char host[256];
	int r;

	*ret_fd = -1;
	if (door->fd < 0)
		return 0;
	r = address_of(first, false, host, sizeof(host), err);
	if (r == -EOPNOTSUPP)
		return 0;
	return r < 0 ? r : transport_listen(host, "0", ret_fd, ret_port, err);
}

/* ---- the other end ---- */

/* Whoever sees the path can connect: it gets its name when somebody listens. */
static int listen_unix(const char *path, int *ret_fd, struct err *err)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	own_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	mode_t mask;
	int r;

	if (fd < 0)
		return err_sys(err, "socket");
	if (snprintf(name.sun_path, sizeof(name.sun_path), "%s~%d", path, getpid()) >= (int)sizeof(name.sun_path))
		return err_set(err, ENAMETOOLONG, "%s", path);
	mask = umask(0177);             /* ours alone */
	r = bind(fd, (struct sockaddr *)&name, sizeof(name));
	umask(mask);
	if (r < 0)
		return err_sys(err, "%s", path);
	if (listen(fd, 1) < 0 || renameat2(AT_FDCWD, name.sun_path, AT_FDCWD, path, RENAME_NOREPLACE) < 0) {
		r = err_sys(err, "%s", path);
		(void)unlink(name.sun_path);
		return r;
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int open_listen(const struct options *options, struct reach_door *ret, struct err *err)
{
	struct place place;
	unsigned int port = 0;
	int r = parse_place(options->listen, &place, err);

	if (r < 0)
		return r;
	if (!options->tls && !options->tls_psk && !options->allow_plaintext && !transport_is_local(place.host))
		return err_set(err, EINVAL, "--listen %s: other machines only with --tls or --tls-psk, or, where nobody else is on the network, "
			       "with --allow-plaintext", options->listen);
	if (options->tls || options->tls_psk)
		r = load_identity(options, &ret->identity, err);
	if (r == 0)
		r = transport_listen(place.host, place.port, &ret->fd, &port, err);
	if (r < 0)
		return r;
	printf("listening on %s, port %u\n", place.host, port);
	fflush(stdout);
	return 0;
}

/* Words that others write to standard output must not get among the bytes. */
static int by_stdio(struct transport *ret, struct err *err)
{
	own_fd in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3), out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	own_fd null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (in < 0 || out < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
		return err_sys(err, "standard input and output");
	return transport_adopt_pair(ret, TAKE_FD(in), TAKE_FD(out), "the source", err);
}

int reach_open(const struct options *options, struct reach_door *ret, struct err *err)
{
	int r = 0;

	*ret = (struct reach_door){ .fd = -1 };
	if (!!options->listen + !!options->unix_path + !!options->stdio + (options->ps_socket >= 0) != 1)
		return err_set(err, EINVAL, "where does the source come from? One of --listen, --unix, --stdio and --ps-socket");
	if (options->listen)
		return open_listen(options, ret, err);
	if (options->unix_path) {
		r = listen_unix(options->unix_path, &ret->fd, err);
		ret->path = r == 0 ? options->unix_path : NULL;
	}
	return r;
}

int reach_accept(const struct options *options, const struct reach_door *door, struct transport *ret, struct err *err)
{
	int r;

	*ret = (struct transport){ .fd = -1 };
	if (options->stdio)
		r = by_stdio(ret, err);
	else if (door->fd < 0)
		r = transport_adopt(ret, options->ps_socket, "the source", err);
	else
		r = transport_accept(door->fd, ret, "the source", err);
	if (r == 0)
		ret->timeout_ms = options->peer_timeout_s * 1000;
	return r;
}

int reach_shake_hands(const struct reach_door *door, struct transport *t, struct err *err)
{
	return door->identity ? tls_start(t, TLS_ACCEPTED, door->identity, NULL, err) : 0;
}

void reach_close(struct reach_door *door)
{
	if (door->path)
		(void)unlink(door->path);
	door->path = NULL;
	if (door->fd >= 0)
		(void)close(door->fd);
	door->fd = -1;
	tls_identity_free(door->identity);
	door->identity = NULL;
}
