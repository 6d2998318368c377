/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "nets.h"

#define BASE_FD 200

/* ---- a place ---- */

int nets_set_up(void **state)
{
	struct nets *n = *state = mem_new(sizeof(*n));

	strcpy(n->dir, "/tmp/ferry-nets-XXXXXX");
	return mkdtemp(n->dir) ? chdir(n->dir) : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static void close_all(struct nets *n)
{
	for (size_t i = 0; i < n->count; i++)
		if (n->fds[i] >= 0)
			close(n->fds[i]);
}

int nets_tear_down(void **state)
{
	struct nets *n = *state;
	int r;

	close_all(n);
	r = chdir("/") < 0 ? -1 : nftw(n->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(n);
	return r;
}

int nets_add(struct nets *n, int fd)
{
	assert_true(fd >= 0);
	assert_true(n->count < NETS_MAX);
	n->fds[n->count++] = fd;
	return fd;
}

struct store *nets_store(bool for_writing)
{
	struct store *store = NULL;
	struct err err = { 0 };
	int r = for_writing ? store_create_dir("images", &store, &err) : store_open_dir("images", &store, &err);

	if (r < 0)
		fail_msg("store: %s", err.text);
	return store;
}

/* ---- the verbs ---- */

static const struct file_type *type_of(const struct fd_view *v)
{
	bool is_unix = unix_type.claims(v), is_inet = inet_type.claims(v);

	assert_true(is_unix != is_inet);        /* exactly one */
	return is_unix ? &unix_type : &inet_type;
}

static int see_one(int fd, const struct sock_diag *diag, struct snapshot *s, struct err *err)
{
	struct fd_view v = {
		.snapshot = s, .socks = diag, .pid = getpid(), .task_fd = fd, .fd = fd, .id = (uint32_t)s->files.len + 1,
		.flags = (unsigned int)fcntl(fd, F_GETFL), .info = "",
	};
	struct file f = { .id = v.id, .flags = v.flags, .pid = v.pid, .fd = fd };
	int r;

	assert_int_equal(fstat(fd, &v.st), 0);
	f.type = type_of(&v);
	f.drop = f.type->drop;
	f.state = mem_new(f.type->state_size);
	r = f.type->see(&v, f.state, err);
	if (r < 0)
		free(f.state);
	else
		vec_push(&s->files, f);
	return r;
}

int nets_see(const struct nets *n, struct snapshot *ret, struct err *err)
{
	struct sock_diag diag;
	int r = sock_diag_collect(-1, &diag, err);

	if (r < 0)
		fail_msg("sock_diag: %s", err->text);
	*ret = (struct snapshot){ 0 };
	for (size_t i = 0; i < n->count && r == 0; i++)
		r = see_one(n->fds[i], &diag, ret, err);
	for (size_t i = 0; i < ret->files.len && r == 0; i++)
		if (ret->files.at[i].type->resolve)
			r = ret->files.at[i].type->resolve(&ret->files.at[i], ret, err);
	sock_diag_free(&diag);
	return r;
}

void nets_save(const struct snapshot *s, FileEntry *ret_records, struct store *store)
{
	struct err err;

	for (size_t i = 0; i < s->files.len; i++) {
		FileEntry *rec = &ret_records[i];
		own_free uint8_t *bytes = NULL;

		file_entry__init(rec);
		s->files.at[i].type->save(&s->files.at[i], rec);
		assert_int_equal(rec->id, s->files.at[i].id);
		/* it is complete, and can be read again */
		bytes = mem_new(file_entry__get_packed_size(rec));
		FileEntry *back = file_entry__unpack(NULL, file_entry__pack(rec, bytes), bytes);
		assert_non_null(back);
		file_entry__free_unpacked(back, NULL);
	}
	assert_int_equal(unix_type.save_side(s, store, &err), 0);
	assert_int_equal(store_seal(store, &err), 0);
}

int nets_load(const FileEntry *records, size_t count, struct store *store, struct snapshot *ret, struct err *err)
{
	int r;

	*ret = (struct snapshot){ 0 };
	r = unix_type.load_side(ret, store, err);
	for (size_t i = 0; i < count && r == 0; i++) {
		struct file f = { .id = records[i].id, .fd = -1, .type = records[i].usk ? &unix_type : &inet_type };

		f.drop = f.type->drop;
		f.state = mem_new(f.type->state_size);
		r = f.type->load(&records[i], &f, ret, err);
		if (r < 0)
			free(f.state);
		else
			vec_push(&ret->files, f);
	}
	return r;
}

static int make_one(const struct file *f, struct maker *m, size_t i, struct err *err)
{
	int r = f->type->make(f, m, &m->fds.at[i], err);

	if (r == 0) {
		assert_int_equal(fcntl(m->fds.at[i], F_GETFD), FD_CLOEXEC);
		/* as the engine does */
		assert_int_equal(fcntl(m->fds.at[i], F_SETFL, f->flags & (O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT)), 0);
	}
	return r;
}

int nets_make(const struct snapshot *s, int *ret_fds, struct err *err)
{
	struct maker m = { .snapshot = s, .base_fd = BASE_FD };
	int r = 0;

	for (size_t i = 0; i < s->files.len; i++)
		vec_push(&m.fds, -1);
	for (size_t i = 0; i < s->files.len && r == 0; i++)
		r = make_one(&s->files.at[i], &m, i, err);
	for (size_t i = 0; i < s->files.len && r == 0; i++)
		if (s->files.at[i].type->attach)
			r = s->files.at[i].type->attach(&s->files.at[i], &m, err);
	for (size_t i = 0; i < s->files.len; i++)
		if (r == 0)
			ret_fds[i] = m.fds.at[i];
		else if (m.fds.at[i] >= 0)
			close(m.fds.at[i]);
	vec_free(&m.fds);
	return r;
}

/* ---- comparing ---- */

/* The how manyth file a unix socket is, from 1; 0: none.  Inodes differ from life to life. */
static size_t number_of(const struct snapshot *s, uint32_t ino)
{
	for (size_t i = 0; i < s->files.len; i++)
		if (ino && s->files.at[i].type == &unix_type && ((struct unix_sock *)s->files.at[i].state)->ino == ino)
			return i + 1;
	return 0;
}

static void same_record(const struct file *a, const struct file *b)
{
	FileEntry x = FILE_ENTRY__INIT, y = FILE_ENTRY__INIT;
	size_t len;

	a->type->save(a, &x);
	b->type->save(b, &y);
	if (x.usk) {
		x.usk->ino = y.usk->ino;
		x.usk->peer = y.usk->peer;
		assert_int_equal(x.usk->n_waiting, y.usk->n_waiting);
		for (size_t i = 0; i < x.usk->n_waiting; i++)
			x.usk->waiting[i] = y.usk->waiting[i];
	} else {
		x.isk->ino = y.isk->ino;
	}
	len = file_entry__get_packed_size(&x);
	own_free uint8_t *bytes_x = mem_new(len), *bytes_y = mem_new(file_entry__get_packed_size(&y));
	file_entry__pack(&x, bytes_x);
	assert_int_equal(file_entry__pack(&y, bytes_y), len);
	assert_memory_equal(bytes_x, bytes_y, len);
	protobuf_c_message_free_unpacked(x.usk ? &x.usk->base : &x.isk->base, NULL);
	protobuf_c_message_free_unpacked(y.usk ? &y.usk->base : &y.isk->base, NULL);
}

static void same_snapshot(const struct snapshot *a, const struct snapshot *b)
{
	assert_int_equal(a->files.len, b->files.len);
	assert_int_equal(a->packets.len, b->packets.len);
	for (size_t i = 0; i < a->files.len; i++) {
		const struct unix_sock *x = a->files.at[i].state, *y = b->files.at[i].state;

		same_record(&a->files.at[i], &b->files.at[i]);
		if (a->files.at[i].type != &unix_type)
			continue;
		assert_int_equal(number_of(a, x->peer), number_of(b, y->peer));
		for (size_t k = 0; k < x->waiting.len; k++)
			assert_int_equal(number_of(a, x->waiting.at[k]), number_of(b, y->waiting.at[k]));
	}
	for (size_t i = 0; i < a->packets.len; i++) {
		assert_int_equal(a->packets.at[i].file, b->packets.at[i].file);
		assert_int_equal(a->packets.at[i].len_bytes, b->packets.at[i].len_bytes);
		assert_memory_equal(a->packets.at[i].bytes, b->packets.at[i].bytes, a->packets.at[i].len_bytes);
		assert_int_equal(a->packets.at[i].from_len, b->packets.at[i].from_len);
		assert_memory_equal(a->packets.at[i].from, b->packets.at[i].from, a->packets.at[i].from_len);
	}
}

void nets_again(struct nets *n)
{
	struct snapshot seen, loaded, made;
	FileEntry records[NETS_MAX];
	struct err err = { 0 };

	if (nets_see(n, &seen, &err) < 0)
		fail_msg("see: %s", err.text);
	{
		own_store *store = nets_store(true);

		nets_save(&seen, records, store);
	}
	close_all(n);
	own_store *store = nets_store(false);
	if (nets_load(records, seen.files.len, store, &loaded, &err) < 0)
		fail_msg("load: %s", err.text);
	same_snapshot(&seen, &loaded);          /* load(save(x)) == x */
	if (nets_make(&loaded, n->fds, &err) < 0)
		fail_msg("make: %s", err.text);
	if (nets_see(n, &made, &err) < 0)
		fail_msg("see what was made: %s", err.text);
	same_snapshot(&loaded, &made);          /* see(make(x)) == x */
	for (size_t i = 0; i < seen.files.len; i++)
		protobuf_c_message_free_unpacked(records[i].usk ? &records[i].usk->base : &records[i].isk->base, NULL);
	snapshot_free(&seen);
	snapshot_free(&loaded);
	snapshot_free(&made);
}

/* ---- unix sockets ---- */

socklen_t nets_unix(struct sockaddr_un *ret, const char *name)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (name[0] != '@') {
		strcpy(ret->sun_path, name);
		return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1);
	}
	return (socklen_t)offsetof(struct sockaddr_un, sun_path) + 1 +
		(socklen_t)snprintf(ret->sun_path + 1, sizeof(ret->sun_path) - 1, "%s%d", name + 1, getpid());
}

int nets_bound(int type, const char *name)
{
	int fd = socket(AF_UNIX, type, 0);
	struct sockaddr_un a;

	assert_int_equal(bind(fd, (struct sockaddr *)&a, nets_unix(&a, name)), 0);
	return fd;
}

int nets_connected(int type, const char *name)
{
	int fd = socket(AF_UNIX, type, 0);
	struct sockaddr_un a;

	assert_int_equal(connect(fd, (struct sockaddr *)&a, nets_unix(&a, name)), 0);
	return fd;
}

void nets_send(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
}

void nets_send_to(int fd, const char *name, const char *text)
{
	struct sockaddr_un a;

	assert_int_equal(sendto(fd, text, strlen(text), 0, (struct sockaddr *)&a, nets_unix(&a, name)), strlen(text));
}

static void expect_name(const struct sockaddr_un *a, socklen_t len, const char *name)
{
	struct sockaddr_un want;
	socklen_t want_len = nets_unix(&want, name);

	if (name[0] == '\0') {
		assert_true(len <= offsetof(struct sockaddr_un, sun_path));
		return;
	}
	assert_int_equal(len, want_len);
	assert_memory_equal(a, &want, want_len);
}

void nets_expect(int fd, const char *text, const char *from)
{
	struct sockaddr_un a = { 0 };
	socklen_t len = sizeof(a);
	char buf[4096] = { 0 };
	ssize_t n = recvfrom(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT, (struct sockaddr *)&a, &len);

	assert_int_equal(n, strlen(text));
	assert_string_equal(buf, text);
	if (from)
		expect_name(&a, len, from);
}

void nets_expect_names(int fd, const char *own, const char *peer)
{
	struct sockaddr_un a;
	socklen_t len = sizeof(a);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	expect_name(&a, len, own);
	len = sizeof(a);
	assert_int_equal(getpeername(fd, (struct sockaddr *)&a, &len), 0);
	expect_name(&a, len, peer);
}
