/* SPDX-License-Identifier: Apache-2.0 */
/* unix_place.c - descriptors and names of the unix sockets that are being made. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/own.h"
#include "resource/file/unix_net.h"

struct address net_address(const char *name, size_t name_len)
{
	struct address a = { .un.sun_family = AF_UNIX, .len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name_len) };

	memcpy(a.un.sun_path, name, name_len);
	return a;
}

const char *net_show(const char *name, size_t name_len, char buf[static UNIX_NAME_MAX + 1])
{
	memcpy(buf, name, name_len);
	buf[name_len] = '\0';
	for (size_t i = 0; i + 1 < name_len; i++)
		if (buf[i] == '\0')
			buf[i] = '@';
	return buf;
}

int net_keep(struct net *net, int fd, int *ret_fd)
{
	own_fd low = fd;

	if (fd < net->m->base_fd) {
		int high = fcntl(fd, F_DUPFD_CLOEXEC, net->m->base_fd);

		if (high < 0)
			return err_sys(net->err, "move descriptor %d", fd);
		*ret_fd = high;
		return 0;
	}
	*ret_fd = TAKE_FD(low);
	return 0;
}

int net_create(struct net *net, uint32_t type, int *ret_fd)
{
	int fd = socket(AF_UNIX, (int)type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? err_sys(net->err, "create unix socket") : net_keep(net, fd, ret_fd);
}

/* In the empty root, the directories of the path. */
static int make_dirs(struct net *net, char *path)
{
	for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = '\0';
		if (mkdir(path, 0700) < 0 && errno != EEXIST)
			return err_sys(net->err, "make directory %s", path);
		*at = '/';
	}
	return 0;
}

int net_enter(struct net *net, const char *dir, const char *name, size_t name_len)
{
	char path[UNIX_NAME_MAX + 1] = { 0 };
	int r = 0;

	if (name_len == 0 || name[0] == '\0')
		return 0;
	if (net->away) {
		own_free char *slashed = mem_fmt("%s/", dir ? dir : "");

		r = make_dirs(net, slashed);
	}
	if (r == 0 && dir && chdir(dir) < 0)
		return err_sys(net->err, "enter %s", dir);
	if (r == 0 && net->away) {
		memcpy(path, name, name_len);
		r = make_dirs(net, path);
	}
	return r;
}

int net_connect(struct net *net, int fd, const struct unix_sock *to)
{
	struct address a = net_address(to->name, to->name_len);

	if (connect(fd, (struct sockaddr *)&a.un, a.len) < 0)
		return err_sys(net->err, "connect unix socket to %s", NET_SHOW(to));
	return 0;
}

void net_remove_name(const char *name, size_t name_len)
{
	char path[UNIX_NAME_MAX + 1] = { 0 };

	memcpy(path, name, name_len);
	if (name_len > 0 && name[0])
		(void)unlink(path);
}

/* Is it bound? A datagram socket tries to connect, and no server takes notice of it. */
int net_remove_stale(struct net *net, const struct unix_sock *u)
{
	struct address a = net_address(u->name, u->name_len);
	own_fd probe = -1;
	struct stat st;

	if (lstat(NET_SHOW(u), &st) < 0 || !S_ISSOCK(st.st_mode))
		return 0;
	probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (probe < 0)
		return err_sys(net->err, "create unix socket");
	if (connect(probe, (struct sockaddr *)&a.un, a.len) == 0 || errno != ECONNREFUSED)
		return err_set(net->err, EADDRINUSE, "%s is in use by another socket", NET_SHOW(u));
	net_remove_name(u->name, u->name_len);
	return 0;
}

static int set_perms(struct net *net, const struct unix_sock *u)
{
	const char *path = NET_SHOW(u);

	if (!unix_is_path(u) || !u->has_perms)
		return 0;
	if (lchown(path, u->uid, u->gid) < 0)
		return err_sys(net->err, "give %s to %u:%u", path, u->uid, u->gid);
	return chmod(path, u->mode & 07777) < 0 ? err_sys(net->err, "set the mode of %s", path) : 0;
}

int net_bind(struct net *net, int fd, const struct unix_sock *u)
{
	struct address a = net_address(u->name, u->name_len);

	if (bind(fd, (struct sockaddr *)&a.un, a.len) < 0)
		return err_sys(net->err, "bind unix socket to %s", NET_SHOW(u));
	return set_perms(net, u);
}
