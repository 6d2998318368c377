/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unix_fill.c - what waits in unix sockets is sent again.
 *
 * By the other end, where there is one.  Else, of datagrams, by whoever has the sender's name; or by a socket
 * that gets that name, as one sees the name of a sender even when it is gone.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "resource/file/unix_net.h"

struct node *net_node_by_name(const struct net *net, const char *name, size_t name_len)
{
	for (size_t i = 0; i < net->nodes.len; i++)
		if (net->nodes.at[i].u->type == SOCK_DGRAM && unix_same_name(net->nodes.at[i].u, name, name_len))
			return &net->nodes.at[i];
	return NULL;
}

/* A socket with the name of one that has sent and is gone. */
int net_new_sender(struct net *net, size_t packet, int *ret_fd)
{
	const struct packet *p = &net->m->snapshot->packets.at[packet];
	struct address a = net_address(p->from, p->from_len);
	int fd, r = net_create(net, SOCK_DGRAM, &fd);

	if (r < 0)
		return r;
	vec_push(&net->senders, ((struct sender){ packet, fd }));
	*ret_fd = fd;
	if (p->from_len == 0)
		return 0;
	r = net_enter(net, p->from[0] ? "/" : NULL, p->from, p->from_len);
	if (r == 0 && bind(fd, (struct sockaddr *)&a.un, a.len) < 0)
		log_warn("a message in file %#x loses the name of its sender: %s", p->file, strerror(errno));
	net_remove_name(p->from, net->away ? p->from_len : 0);
	return r;
}

/* Who sends packet number `packet` to n, and whether it must say where to. */
static int pick_sender(struct net *net, const struct node *n, size_t packet, int *ret_fd, bool *ret_by_name)
{
	const struct packet *p = &net->m->snapshot->packets.at[packet];
	const struct node *peer = net_node(net, n->u->peer);

	if (!peer && p->from_len > 0 && n->u->type == SOCK_DGRAM && n->far < 0)
		peer = net_node_by_name(net, p->from, p->from_len);
	*ret_by_name = false;
	*ret_fd = n->far;
	if (n->far >= 0)
		return 0;
	if (peer) {
		*ret_fd = *peer->fd;
		*ret_by_name = peer->u->peer != n->u->ino || !peer->connected;
		return 0;
	}
	*ret_by_name = true;
	for (size_t i = 0; i < net->senders.len; i++)
		if (net->senders.at[i].packet == packet) {
			*ret_fd = net->senders.at[i].fd;
			return 0;
		}
	return net_new_sender(net, packet, ret_fd);
}

static int send_packet(struct net *net, const struct node *n, size_t packet)
{
	const struct packet *p = &net->m->snapshot->packets.at[packet];
	struct address to = net_address(n->u->name, n->u->name_len);
	size_t done = 0;
	bool by_name;
	int fd, r = pick_sender(net, n, packet, &fd, &by_name);

	if (r == 0 && by_name && n->u->name_len == 0)
		return err_set(net->err, EBADMSG, "nobody can send to unix socket %u what waits in it", n->u->ino);
	if (r == 0)
		r = sock_room(fd, net->room_bytes, net->err);
	while (r == 0) {
		ssize_t n_sent = sendto(fd, p->bytes + done, p->len_bytes - done, MSG_DONTWAIT | MSG_NOSIGNAL,
					by_name ? (struct sockaddr *)&to.un : NULL, by_name ? to.len : 0);

		if (n_sent < 0)
			return err_sys(net->err, "send what waits in unix socket %u (packet of %zu bytes)", n->u->ino, p->len_bytes);
		done += (size_t)n_sent;
		if (done >= p->len_bytes)
			break;
	}
	return r;
}

int net_fill(struct net *net, const struct node *n)
{
	const struct snapshot *s = net->m->snapshot;
	int r = 0;

	for (size_t i = 0; i < s->packets.len && r == 0; i++)
		if (s->packets.at[i].file == n->id)
			r = send_packet(net, n, i);
	return r;
}

