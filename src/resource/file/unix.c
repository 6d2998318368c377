/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unix - unix sockets: stream, dgram, seqpacket.
 *
 * Seen in:  unix_diag (names, peers, who waits to be accepted), SIOCUNIXFILE (the file that it is bound to),
 *           getsockopt; queues: unix_queue.c.
 * Made by:  unix_make.c, all at once.
 * Image:    file_entry.usk in files.img, sk-queues.img.  Sockets name one
 *           another by inode; a client that is not accepted yet has the listening socket as its peer.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/own.h"
#include "resource/file/unix.h"

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE (SIOCPROTOPRIVATE + 0)
#endif

#define DELETED " (deleted)"

/* ---- see ---- */

static bool unix_claims(const struct fd_view *v)
{
	int domain;

	return S_ISSOCK(v->st.st_mode) && sock_opt_get(v->fd, SOL_SOCKET, SO_DOMAIN, &domain) == 0 && domain == AF_UNIX;
}

/*
 * Does the path lead to the file that the socket is bound to?  A connection has but the name of the one that
 * accepted it, and after a restore not its file: any socket there will do.
 */
static bool leads_to(const struct unix_sock *u, const char *path, const struct stat *st)
{
	struct stat at;

	return lstat(path, &at) == 0 &&
	       (unix_is_connection(u) ? S_ISSOCK(at.st_mode) : at.st_dev == st->st_dev && at.st_ino == st->st_ino);
}

static int read_link(const char *path, char buf[static PATH_MAX], struct err *err)
{
	ssize_t n = readlink(path, buf, PATH_MAX - 1);

	if (n < 0)
		return err_sys(err, "read %s", path);
	buf[n] = '\0';
	return 0;
}

/* The directory that a relative name is relative to: what its path has before it, or else where the task is. */
static int see_dir(const struct fd_view *v, struct unix_sock *u, const char *name, const char *path, struct err *err)
{
	size_t path_len = strlen(path), name_len = strlen(name);
	char proc[64], cwd[PATH_MAX];
	int r;

	if (path_len > name_len && path[path_len - name_len - 1] == '/' && strcmp(path + path_len - name_len, name) == 0) {
		u->dir = path_len - name_len == 1 ? mem_str("/") : mem_fmt("%.*s", (int)(path_len - name_len - 1), path);
		return 0;
	}
	snprintf(proc, sizeof(proc), "/proc/%d/cwd", (int)v->pid);
	r = read_link(proc, cwd, err);
	if (r == 0)
		u->dir = mem_str(cwd);
	return r;
}

/* The file that it is bound to: path, owner, mode. */
static int see_path(const struct fd_view *v, struct unix_sock *u, struct err *err)
{
	own_fd file = ioctl(v->fd, SIOCUNIXFILE);
	own_free char *whole = NULL;
	char name[UNIX_NAME_MAX + 1] = { 0 }, proc[64], path[PATH_MAX];
	size_t len, tail = strlen(DELETED);
	struct stat st;
	int r = 0;

	memcpy(name, u->name, u->name_len);
	if (file < 0 || fstat(file, &st) < 0)
		return err_sys(err, "ask for the file of %s", name);
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", file);
	r = read_link(proc, path, err);
	if (r < 0)
		return r;
	len = strlen(path);
	if (len > tail && strcmp(path + len - tail, DELETED) == 0)
		path[len - tail] = '\0';
	if (name[0] != '/')
		r = see_dir(v, u, name, path, err);
	if (r < 0)
		return r;
	whole = u->dir ? mem_fmt("%s/%s", u->dir, name) : mem_str(name);
	u->deleted = !leads_to(u, whole, &st);
	if (u->deleted && st.st_nlink > 0 && !unix_is_connection(u))
		return err_set(err, EOPNOTSUPP, "unix socket is bound to %s, which is %s now", whole, path);
	u->has_perms = true;
	u->mode = st.st_mode;
	u->uid = st.st_uid;
	u->gid = st.st_gid;
	return 0;
}

/*
 * A datagram socket counts as connected as soon as another one is connected to it: only its peer's name tells.
 * One whose peer is closed still has that peer's name.
 */
static uint32_t dgram_state(int fd)
{
	struct sockaddr_un addr;
	socklen_t len = sizeof(addr);

	return getpeername(fd, (struct sockaddr *)&addr, &len) == 0 ? UNIX_CONNECTED : UNIX_CLOSED;
}

static int see_all(const struct fd_view *v, const struct sock_unix *diag, struct unix_sock *u, struct err *err)
{
	int r;

	memcpy(u->name, diag->name, diag->name_len);
	for (size_t i = 0; i < diag->icon_count; i++)
		vec_push(&u->waiting, diag->icons[i]);
	if ((unix_is_path(u) && (r = see_path(v, u, err)) < 0) ||
	    (r = sock_opts_see(v->fd, &u->opts, err)) < 0)
		return r;
	return unix_queue_see(v, u, err);
}

static void unix_drop(void *state)
{
	struct unix_sock *u = state;

	free(u->dir);
	vec_free(&u->waiting);
	sock_opts_drop(&u->opts);
}

static int unix_see(const struct fd_view *v, void *state, struct err *err)
{
	const struct sock_unix *diag = v->socks ? sock_diag_unix(v->socks, v->st.st_ino) : NULL;
	struct unix_sock *u = state;
	int r;

	if (!diag)
		return err_set(err, EOPNOTSUPP, "unix socket %lu is in another network namespace", (unsigned long)v->st.st_ino);
	*u = (struct unix_sock){
		.ino = diag->ino, .peer = diag->peer, .type = diag->type, .shutdown = diag->shutdown & 3, .name_len = diag->name_len,
		.state = diag->type == SOCK_DGRAM ? dgram_state(v->fd) : diag->state,
		.backlog = diag->state == UNIX_LISTENING ? diag->wqueue : 0,
		.unread = diag->state == UNIX_CONNECTED && diag->wqueue > 0,
	};
	r = see_all(v, diag, u, err);
	if (r < 0) {
		unix_drop(u);
		*u = (struct unix_sock){ 0 };
	}
	return r;
}

/* ---- do the sockets of a snapshot fit together? ---- */

static struct unix_sock *state_of(const struct file *f)
{
	return f->type == &unix_type ? f->state : NULL;
}

static struct unix_sock *find(const struct snapshot *s, uint32_t ino)
{
	for (size_t i = 0; i < s->files.len && ino; i++) {
		struct unix_sock *u = state_of(&s->files.at[i]);

		if (u && u->ino == ino)
			return u;
	}
	return NULL;
}

const struct unix_sock *unix_by_ino(const struct snapshot *s, uint32_t ino)
{
	return find(s, ino);
}

const struct unix_sock *unix_by_id(const struct snapshot *s, uint32_t id)
{
	const struct file *f = snapshot_file(s, id);

	return f ? state_of(f) : NULL;
}

/* What is wrong with its peer, or NULL. */
static const char *peer_fault(const struct unix_sock *u, const struct unix_sock *peer)
{
	if (!peer)
		return "which no task of the tree has";
	if (u->state != UNIX_CONNECTED || peer->type != u->type)
		return "which can't be";
	if (u->type == SOCK_DGRAM)
		return peer->name_len > 0 || (peer->peer == u->ino && peer != u) ? NULL : "which nobody can connect to";
	if (peer->state == UNIX_LISTENING)
		return peer->name_len == 0 ? "which has no name" : u->unread ? "which has data to read before it accepts" : NULL;
	return peer->peer == u->ino && peer != u && peer->state == UNIX_CONNECTED ? NULL : "which is not connected to it";
}

/* Seen, a client may not know yet whom it waits for. */
static bool is_waiting(const struct unix_sock *client, const struct unix_sock *listener, bool seen)
{
	return client && (client->peer == listener->ino || (seen && unix_is_connection(client) && !client->peer));
}

static int check_waiting(const struct file *f, const struct snapshot *s, int code, struct err *err)
{
	const struct unix_sock *u = f->state;

	for (size_t i = 0; i < u->waiting.len; i++) {
		if (!is_waiting(find(s, u->waiting.at[i]), u, f->pid > 0))
			return err_set(err, code, "unix socket %u waits to be accepted by %u, and no task of the tree has it",
				       u->waiting.at[i], u->ino);
		for (size_t k = 0; k < i; k++)
			if (u->waiting.at[k] == u->waiting.at[i])
				return err_set(err, EBADMSG, "unix socket %u waits twice to be accepted", u->waiting.at[i]);
	}
	return 0;
}

int unix_check(const struct file *f, const struct snapshot *s, struct err *err)
{
	int code = f->pid > 0 ? EOPNOTSUPP : EBADMSG;   /* seen : loaded */
	const struct unix_sock *u = f->state;
	const char *fault;

	if (find(s, u->ino) != u)
		return err_set(err, code, "there are two unix sockets %u", u->ino);
	fault = u->peer ? peer_fault(u, find(s, u->peer)) : NULL;
	if (fault)
		return err_set(err, code, "unix socket %u is connected to %u, %s", u->ino, u->peer, fault);
	if (unix_is_connection(u) && !u->peer && u->shutdown != 3)
		return err_set(err, code, "unix socket %u waits to be accepted by a socket that no task of the tree has", u->ino);
	return check_waiting(f, s, code, err);
}

/* A client that nobody has accepted seems to have no peer: the listening socket knows of it. */
static int unix_resolve(struct file *f, const struct snapshot *s, struct err *err)
{
	struct unix_sock *u = f->state;

	for (size_t i = 0; i < s->files.len && unix_is_connection(u) && !u->peer; i++) {
		const struct unix_sock *listener = state_of(&s->files.at[i]);

		for (size_t k = 0; listener && k < listener->waiting.len; k++)
			if (listener->waiting.at[k] == u->ino)
				u->peer = listener->ino;
	}
	return unix_check(f, s, err);
}

/* ---- save and load ---- */

static void save_name(const struct unix_sock *u, UnixSkEntry *e)
{
	e->name.len = u->name_len;
	e->name.data = u->name_len ? mem_dup(u->name, u->name_len) : NULL;
	e->name_dir = u->dir ? mem_str(u->dir) : NULL;
	e->has_deleted = e->deleted = u->deleted;
	if (u->has_perms) {
		e->file_perms = mem_new(sizeof(*e->file_perms));
		file_perms_entry__init(e->file_perms);
		e->file_perms->mode = u->mode;
		e->file_perms->uid = u->uid;
		e->file_perms->gid = u->gid;
	}
}

static void unix_save(const struct file *f, FileEntry *rec)
{
	const struct unix_sock *u = f->state;
	UnixSkEntry *e = mem_new(sizeof(*e));

	unix_sk_entry__init(e);
	e->id = f->id;
	e->ino = u->ino;
	e->type = u->type;
	e->state = u->state;
	e->flags = f->flags;
	e->backlog = u->backlog;
	e->peer = u->peer;
	e->fown = fown_save(&f->fown);
	e->opts = sock_opts_save(&u->opts);
	e->has_shutdown = u->shutdown != 0;
	e->shutdown = (SkShutdown)u->shutdown;
	e->n_waiting = u->waiting.len;
	e->waiting = u->waiting.len ? mem_dup(u->waiting.at, u->waiting.len * sizeof(*u->waiting.at)) : NULL;
	save_name(u, e);
	rec->type = FD_TYPES__UNIXSK;
	rec->id = f->id;
	rec->usk = e;
}

static int check_kind(const UnixSkEntry *e, struct err *err)
{
	bool dgram = e->type == SOCK_DGRAM;

	if (e->ino == 0)
		return err_set(err, EBADMSG, "unix socket record has no inode");
	if (!dgram && e->type != SOCK_STREAM && e->type != SOCK_SEQPACKET)
		return err_set(err, EBADMSG, "unix socket %u has type %u", e->ino, e->type);
	if (e->state != UNIX_CONNECTED && e->state != UNIX_CLOSED && (dgram || e->state != UNIX_LISTENING))
		return err_set(err, EBADMSG, "unix socket %u has state %u", e->ino, e->state);
	if (e->state == UNIX_LISTENING && e->name.len == 0)
		return err_set(err, EBADMSG, "unix socket %u is listening without a name", e->ino);
	if (e->uflags != 0)
		return err_set(err, EOPNOTSUPP, "unix socket %u is connected to what is not in the images (%#x)", e->ino, e->uflags);
	if (e->shutdown > 3)
		return err_set(err, EBADMSG, "unix socket %u has shut down %#x", e->ino, e->shutdown);
	if (e->n_waiting > 0 && e->state != UNIX_LISTENING)
		return err_set(err, EBADMSG, "unix socket %u is not listening, and clients wait for it", e->ino);
	return 0;
}

static int check_name(const UnixSkEntry *e, struct err *err)
{
	bool path = e->name.len > 0 && e->name.data[0] != '\0';

	if (e->name.len > UNIX_NAME_MAX)
		return err_set(err, EBADMSG, "unix socket %u has a name of %zu bytes", e->ino, e->name.len);
	if (path && memchr(e->name.data, '\0', e->name.len - 1))
		return err_set(err, EBADMSG, "unix socket %u has a zero byte in its path", e->ino);
	if (e->name_dir && (e->name_dir[0] != '/' || strlen(e->name_dir) >= PATH_MAX))
		return err_set(err, EBADMSG, "unix socket %u is relative to '%.100s'", e->ino, e->name_dir);
	if (path && e->name.data[0] != '/' && !e->name_dir)
		return err_set(err, EBADMSG, "unix socket %u has a relative name, and no directory", e->ino);
	if (e->file_perms && ((e->file_perms->mode & ~(uint32_t)(S_IFMT | 07777)) || !S_ISSOCK(e->file_perms->mode)))
		return err_set(err, EBADMSG, "unix socket %u is bound to a file of mode %o", e->ino, e->file_perms->mode);
	return 0;
}

static int unix_load(const FileEntry *rec, struct file *f, struct snapshot *s, struct err *err)
{
	const UnixSkEntry *e = rec->usk;
	struct unix_sock *u = f->state;
	int r;

	(void)s;
	if (!e)
		return err_set(err, EBADMSG, "unix socket record has no body");
	if ((r = check_kind(e, err)) < 0 || (r = check_name(e, err)) < 0 || (r = fown_load(e->fown, &f->fown, err)) < 0)
		return r;
	*u = (struct unix_sock){
		.ino = e->ino, .peer = e->peer, .type = e->type, .state = e->state, .shutdown = e->shutdown,
		.backlog = e->state == UNIX_LISTENING ? e->backlog : 0, .name_len = (uint8_t)e->name.len, .deleted = e->deleted,
	};
	r = sock_opts_load(e->opts, &u->opts, err);
	if (r < 0)
		return r;
	if (e->name.len > 0)
		memcpy(u->name, e->name.data, e->name.len);
	if (unix_is_path(u) && u->name[0] != '/')
		u->dir = mem_str(e->name_dir);
	if (e->file_perms) {
		u->has_perms = true;
		u->mode = e->file_perms->mode;
		u->uid = e->file_perms->uid;
		u->gid = e->file_perms->gid;
	}
	for (size_t i = 0; i < e->n_waiting; i++)
		vec_push(&u->waiting, e->waiting[i]);
	f->flags = e->flags;
	return 0;
}

/* ---- make ---- */

static int unix_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	size_t i = (size_t)(f - m->snapshot->files.at);
	int r = m->fds.at[i] < 0 ? unix_make_all(m, err) : 0;

	if (r == 0)
		*ret_fd = m->fds.at[i];
	return r;
}

const struct file_type unix_type = {
	.name = "unix sockets",
	.lost = "what SO_PEERCRED says; empty messages that somebody has peeked at; an error that waits to be read",
	.record = FD_TYPES__UNIXSK,
	.state_size = sizeof(struct unix_sock),
	.claims = unix_claims,
	.see = unix_see,
	.resolve = unix_resolve,
	.save = unix_save,
	.load = unix_load,
	.make = unix_make,
	.save_side = unix_queue_save,
	.load_side = unix_queue_load,
	.drop = unix_drop,
};
