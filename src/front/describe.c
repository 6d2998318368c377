/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "front/describe.h"

#define TARGETS_SHOWN 8u

void describe_kind(FdTypes kind, char buf[static 16])
{
	const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value(&fd_types__descriptor, (int)kind);
	size_t n = 0;

	if (!known) {
		snprintf(buf, 16, "kind %d", (int)kind);
		return;
	}
	for (; known->name[n] && n < 15; n++)
		buf[n] = (char)(known->name[n] >= 'A' && known->name[n] <= 'Z' ? known->name[n] + ('a' - 'A') : known->name[n]);
	buf[n] = '\0';
}

void describe_text(FILE *out, const char *text, size_t len_bytes)
{
	for (size_t i = 0; i < len_bytes; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c < 0x20 || c == 0x7f)
			fprintf(out, "\\x%02x", c);
		else
			fputc(c, out);
	}
}

static void print_flags(FILE *out, uint32_t flags)
{
	static const struct { uint32_t bit; const char *name; } bits[] = {
		{ O_APPEND, "append" }, { O_NONBLOCK, "nonblock" }, { O_DIRECTORY, "directory" }, { O_DIRECT, "direct" },
		{ O_PATH, "path only" }, { O_ASYNC, "async" },
	};
	static const char *const modes[] = { "read", "write", "read and write", "neither" };

	fprintf(out, ", %s", modes[flags & O_ACCMODE]);
	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		if (flags & bits[i].bit)
			fprintf(out, ", %s", bits[i].name);
}

static void print_reg(FILE *out, const RegFileEntry *reg)
{
	describe_text(out, reg->name, strlen(reg->name));
	print_flags(out, reg->flags);
	fprintf(out, ", at %" PRIu64, reg->pos);
}

static const char *socket_type(uint32_t type)
{
	static const char *const names[] = { [SOCK_STREAM] = "stream", [SOCK_DGRAM] = "dgram", [SOCK_RAW] = "raw",
		[SOCK_SEQPACKET] = "seqpacket" };

	return type < sizeof(names) / sizeof(names[0]) && names[type] ? names[type] : "socket";
}

/* TCP's numbers, which unix sockets use too */
static const char *socket_state(uint32_t state)
{
	return state == 1 ? "connected" : state == 7 ? "not connected" : state == 10 ? "listening" : "on its way";
}

static void print_unix(FILE *out, const UnixSkEntry *sk)
{
	bool abstract = sk->name.len > 0 && sk->name.data[0] == '\0';
	const char *name = (const char *)sk->name.data;
	size_t len_bytes = sk->name.len;

	fprintf(out, "%s, %s, inode %u", socket_type(sk->type), socket_state(sk->state), sk->ino);
	if (sk->peer)
		fprintf(out, ", peer %u", sk->peer);
	if (len_bytes == 0)
		return;
	fputs(abstract ? ", @" : ", ", out);
	describe_text(out, name + abstract, abstract ? len_bytes - 1 : strnlen(name, len_bytes));
}

static void print_address(FILE *out, uint32_t family, const uint32_t *words, size_t n, uint32_t port)
{
	char text[INET6_ADDRSTRLEN] = "?";

	if (n >= (family == AF_INET6 ? 4 : 1))
		inet_ntop(family == AF_INET6 ? AF_INET6 : AF_INET, words, text, sizeof(text));
	fprintf(out, family == AF_INET6 ? "[%s]:%u" : "%s:%u", text, port);
}

static void print_inet(FILE *out, const InetSkEntry *sk)
{
	const char *protocol = sk->proto == IPPROTO_TCP ? "tcp" : sk->proto == IPPROTO_UDP ? "udp" : socket_type(sk->type);

	fprintf(out, "%s, %s, ", protocol, socket_state(sk->state));
	print_address(out, sk->family, sk->src_addr, sk->n_src_addr, sk->src_port);
	if (sk->dst_port) {
		fputs(" to ", out);
		print_address(out, sk->family, sk->dst_addr, sk->n_dst_addr, sk->dst_port);
	}
}

static void print_epoll(FILE *out, const EventpollFileEntry *epoll)
{
	fprintf(out, "watches %zu", epoll->n_tfd);
	for (size_t i = 0; i < epoll->n_tfd && i < TARGETS_SHOWN; i++)
		fprintf(out, "%s%u", i ? ", " : ": ", epoll->tfd[i]->tfd);
	fputs(epoll->n_tfd > TARGETS_SHOWN ? ", ..." : "", out);
}

static void print_pipe(FILE *out, uint32_t id, uint32_t flags)
{
	fprintf(out, "pipe %u", id);
	print_flags(out, flags);
}

void describe_file(FILE *out, const FileEntry *file)
{
	if (file->reg)
		print_reg(out, file->reg);
	else if (file->pipe)
		print_pipe(out, file->pipe->pipe_id, file->pipe->flags);
	else if (file->fifo)
		fprintf(out, "pipe %u, opened as file %u", file->fifo->pipe_id, file->fifo->regf_id);
	else if (file->usk)
		print_unix(out, file->usk);
	else if (file->isk)
		print_inet(out, file->isk);
	else if (file->efd)
		fprintf(out, "counter %" PRIu64 "%s", file->efd->counter, file->efd->semaphore ? ", semaphore" : "");
	else if (file->epfd)
		print_epoll(out, file->epfd);
	else if (file->tfd)
		fprintf(out, "clock %u, due in %" PRIu64 ".%09" PRIu64 " s", file->tfd->clockid, file->tfd->vsec, file->tfd->vnsec);
	else if (file->sgfd)
		fprintf(out, "mask %#" PRIx64, file->sgfd->sigmask);
	else if (file->tty)
		fprintf(out, "terminal %u", file->tty->tty_info_id);
	else if (file->memfd)
		fprintf(out, "memory file %u, at %" PRIu64, file->memfd->inode_id, file->memfd->pos);
	else if (file->ify)
		fprintf(out, "watches %zu", file->ify->n_wd);
	else if (file->nlsk)
		fprintf(out, "protocol %u, port %u", file->nlsk->protocol, file->nlsk->portid);
	else if (file->nsf)
		fprintf(out, "namespace %u", file->nsf->ns_id);
	else if (file->pidfd)
		fprintf(out, "process %d", file->pidfd->nspid);
	else
		fprintf(out, "file %u", file->id);
}
