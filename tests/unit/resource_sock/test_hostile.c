/* SPDX-License-Identifier: Apache-2.0 */
/* Records that no dump has written: EBADMSG, and never a crash, a hang or a leak. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "nets.h"

/* A small tree of sockets, as the records that are to be spoiled. */
struct good { FileEntry *records[8]; size_t count; };

static FileEntry *copy(const FileEntry *rec)
{
	own_free uint8_t *bytes = mem_new(file_entry__get_packed_size(rec));

	return file_entry__unpack(NULL, file_entry__pack(rec, bytes), bytes);
}

static void make_good(struct nets *n, struct good *ret)
{
	int pair[2], l = nets_add(n, nets_bound(SOCK_STREAM, "listen"));
	FileEntry records[NETS_MAX];
	struct sockaddr_in any = { .sin_family = AF_INET };
	struct snapshot s;
	struct err err = { 0 };

	assert_int_equal(listen(l, 5), 0);
	nets_add(n, nets_connected(SOCK_STREAM, "listen"));
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
	nets_add(n, pair[0]);
	nets_add(n, pair[1]);
	nets_send(pair[0], "x");
	l = nets_add(n, socket(AF_INET, SOCK_STREAM, 0));
	assert_int_equal(bind(l, (struct sockaddr *)&any, sizeof(any)), 0);
	assert_int_equal(listen(l, 5), 0);
	assert_int_equal(nets_see(n, &s, &err), 0);
	{
		own_store *store = nets_store(true);

		nets_save(&s, records, store);
	}
	ret->count = s.files.len;
	for (size_t i = 0; i < ret->count; i++) {
		ret->records[i] = copy(&records[i]);
		protobuf_c_message_free_unpacked(records[i].usk ? &records[i].usk->base : &records[i].isk->base, NULL);
	}
	snapshot_free(&s);
	for (size_t i = 0; i < n->count; i++)
		close(n->fds[i]);
	n->count = 0;
}

enum { LISTENER, CLIENT, PAIR_A, PAIR_B, INET, GOOD };

/* 0, or how load or make of the records ends. */
static int try(const struct good *g, struct err *err)
{
	own_store *store = nets_store(false);
	FileEntry records[GOOD];
	struct snapshot s;
	int fds[NETS_MAX], r;

	for (size_t i = 0; i < g->count; i++)
		records[i] = *g->records[i];
	r = nets_load(records, g->count, store, &s, err);
	if (r == 0)
		r = nets_make(&s, fds, err);
	for (size_t i = 0; i < s.files.len && r == 0; i++)
		close(fds[i]);
	snapshot_free(&s);
	return r;
}

static void set_bytes(ProtobufCBinaryData *field, const char *bytes, size_t len)
{
	free(field->data);
	field->data = mem_dup(bytes, len);
	field->len = len;
}

/* Each changes one thing. */
static const char long_name[200] = "x", *const split = "a\0b";

static bool spoil(unsigned int number, FileEntry **f)
{
	UnixSkEntry *l = f[LISTENER]->usk, *c = f[CLIENT]->usk, *a = f[PAIR_A]->usk;
	InetSkEntry *t = f[INET]->isk;

	switch (number) {
	case 0: l->type = 3; break;
	case 1: l->state = 2; break;
	case 2: a->state = 10; break;
	case 3: set_bytes(&l->name, long_name, 109); break;
	case 4: set_bytes(&l->name, split, 4); break;
	case 5: set_bytes(&l->name, "", 0); break;
	case 6: l->name_dir[0] = '.'; break;
	case 7: free(l->name_dir); l->name_dir = NULL; break;
	case 8: l->file_perms->mode = 0100644; break;
	case 9: l->file_perms->mode |= 1u << 20; break;
	case 10: c->peer = 12345; break;
	case 11: c->peer = c->ino; break;
	case 12: c->peer = a->ino; break;
	case 13: c->peer = 0; break;
	case 14: a->peer = a->ino; break;
	case 15: a->peer = l->ino; break;
	case 16: a->ino = l->ino; break;
	case 17: a->ino = 0; break;
	case 18: l->waiting[0] = a->ino; break;
	case 19: l->waiting[0] = 4; break;
	case 20: l->peer = c->ino; break;
	case 21: l->shutdown = (SkShutdown)7; break;
	case 22: a->opts->so_sndbuf = UINT32_MAX; break;
	case 23: a->opts->so_rcv_tmo_usec = 1000000; break;
	case 24: a->opts->so_snd_tmo_sec = UINT64_MAX; break;
	case 25: a->opts->has_so_linger = true; a->opts->so_linger = 1u << 31; break;
	case 26: a->opts->has_so_buf_lock = true; a->opts->so_buf_lock = 4; break;
	case 27: a->opts->so_bound_dev = mem_str("a device whose name is too long"); break;
	case 28: a->opts->has_tcp_keepcnt = true; a->opts->tcp_keepcnt = 1000; break;
	case 29: a->fown->signum = 65; break;
	case 30: t->family = 1; break;
	case 31: t->type = 5; break;
	case 32: t->proto = IPPROTO_UDP; break;
	case 33: t->state = 0; break;
	case 34: t->state = 99; break;
	case 35: t->src_port = 65536; break;
	case 36: t->src_port = 0; break;
	case 37: t->n_src_addr = 0; break;
	case 38: t->family = AF_INET6; break;
	case 39: t->ifname = mem_str("a device whose name is too long"); break;
	case 40: t->ip_opts->has_tos = true; t->ip_opts->tos = 256; break;
	case 41: t->shutdown = (SkShutdown)4; break;
	case 42: f[PAIR_A]->id = 77; break;
	case 43: free(l->waiting); l->waiting = mem_new(8); l->n_waiting = 2; l->waiting[0] = l->waiting[1] = c->ino; break;
	case 44: c->type = SOCK_SEQPACKET; break;
	case 45: c->n_waiting = 1; c->waiting = mem_dup(&c->ino, 4); break;
	default: return false;
	}
	return true;
}

static void each_is_refused(void **state)
{
	struct nets *n = *state;
	struct good good;

	make_good(n, &good);
	for (unsigned int number = 0;; number++) {
		struct good bad = { .count = good.count };
		struct err err = { 0 };
		bool any;
		int r = 0;

		for (size_t i = 0; i < good.count; i++)
			bad.records[i] = copy(good.records[i]);
		any = spoil(number, bad.records);
		if (any)
			r = try(&bad, &err);
		for (size_t i = 0; i < good.count; i++)
			file_entry__free_unpacked(bad.records[i], NULL);
		if (!any)
			break;
		if (r != -EBADMSG)
			fail_msg("change %u: %d (%s)", number, r, r < 0 ? err.text : "accepted");
	}
	{
		struct err err = { 0 };

		if (try(&good, &err) < 0)
			fail_msg("the good records: %s", err.text);
	}
	for (size_t i = 0; i < good.count; i++)
		file_entry__free_unpacked(good.records[i], NULL);
}

static void no_body(void **state)
{
	const FileEntry rec = FILE_ENTRY__INIT;
	struct unix_sock u = { 0 };
	struct file f = { .state = &u };
	struct snapshot s = { 0 };
	struct err err;

	(void)state;
	assert_int_equal(unix_type.load(&rec, &f, &s, &err), -EBADMSG);
	assert_int_equal(inet_type.load(&rec, &f, &s, &err), -EBADMSG);
}

static void unknown_option(void **state)
{
	SkExtraOpt option = SK_EXTRA_OPT__INIT, *options[] = { &option };
	SkOptsEntry rec = SK_OPTS_ENTRY__INIT;
	struct sock_opts opts;
	struct err err;

	(void)state;
	option.level = SOL_SOCKET;
	option.name = SO_BINDTODEVICE;
	rec.n_extra = 1;
	rec.extra = options;
	assert_int_equal(sock_opts_load(&rec, &opts, &err), -EBADMSG);
}

/* Every byte of the records changed, one bit at a time: anything may come of it but a crash. */
static void flipped_bits(void **state)
{
	struct nets *n = *state;
	struct good good;

	make_good(n, &good);
	for (size_t i = 0; i < good.count; i++) {
		size_t len = file_entry__get_packed_size(good.records[i]);
		own_free uint8_t *bytes = mem_new(len);
		FileEntry *kept = good.records[i];

		file_entry__pack(kept, bytes);
		for (size_t bit = 0; bit < len * 8; bit++) {
			struct err err;

			bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
			good.records[i] = file_entry__unpack(NULL, len, bytes);
			if (good.records[i]) {
				if (good.records[i]->usk || good.records[i]->isk)
					(void)try(&good, &err);
				file_entry__free_unpacked(good.records[i], NULL);
			}
			bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		good.records[i] = kept;
	}
	for (size_t i = 0; i < good.count; i++)
		file_entry__free_unpacked(good.records[i], NULL);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, nets_set_up, nets_tear_down)
	const struct CMUnitTest tests[] = { TEST(each_is_refused), TEST(no_body), TEST(unknown_option), TEST(flipped_bits) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
