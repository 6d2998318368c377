/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records whose bytes are wrong, in every kind: load refuses them or takes
 * them, and make makes what was taken or says why not.  Nothing else may happen
 * (crash, hang, leak: this is a test for the sanitizers).  The changes are
 * random and the same in each run.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "lab.h"

#define ROUNDS 20000

extern const struct file_type pipe_type, fifo_type;

static uint32_t next(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*seed >> 33);
}

/* One to four bytes are others, now and then the end is missing. */
static size_t mutate(uint8_t *bytes, size_t len_bytes, uint64_t *seed)
{
	static const uint8_t values[] = { 0, 1, 0x7f, 0x80, 0xff };

	for (uint32_t n = next(seed) % 4 + 1; n > 0; n--)
		bytes[next(seed) % len_bytes] = next(seed) % 2 ? (uint8_t)next(seed) : values[next(seed) % sizeof(values)];
	return next(seed) % 8 == 0 ? next(seed) % len_bytes : len_bytes;
}

static void load_and_make(struct lab *lab, const struct file_type *type, const FileEntry *rec, unsigned int *taken)
{
	struct file f = { .id = rec->id, .type = type, .state = mem_new(type->state_size), .fd = -1 };
	int fd = -1;

	if (type->load(rec, &f, &lab->back, &lab->err) == 0) {
		FileEntry *again = mem_new(sizeof(*again));

		++*taken;
		file_entry__init(again);
		type->save(&f, again);
		file_entry__free_unpacked(again, NULL);
		/* a path may be any path now */
		if (type != &fifo_type && type->record != FD_TYPES__REG && type->make(&f, &lab->maker, &fd, &lab->err) == 0)
			close(fd);
	}
	if (type->drop)
		type->drop(f.state);
	free(f.state);
}

static void forget_pipes(struct lab *lab)
{
	for (size_t i = 0; i < lab->maker.pipes.len; i++) {
		close(lab->maker.pipes.at[i].read_fd);
		close(lab->maker.pipes.at[i].write_fd);
	}
	lab->maker.pipes.len = 0;
	for (size_t i = 0; i < lab->back.pipes.len; i++) {
		free(lab->back.pipes.at[i].data);
		vec_free(&lab->back.pipes.at[i].packets);
	}
	lab->back.pipes.len = 0;
}

static void torment(struct lab *lab, const struct file *f, uint64_t seed)
{
	own_message FileEntry *rec = lab_record(f);
	size_t len = file_entry__get_packed_size(rec);
	own_free uint8_t *good = mem_new(len), *bad = mem_new(len);
	unsigned int taken = 0;

	file_entry__pack(rec, good);
	for (int i = 0; i < ROUNDS; i++) {
		memcpy(bad, good, len);
		size_t left = mutate(bad, len, &seed);
		own_message ProtobufCMessage *m = record_unpack(&file_entry__descriptor, bad, left);

		if (m)
			load_and_make(lab, f->type, (const FileEntry *)(void *)m, &taken);
		if (i % 100 == 0)
			forget_pipes(lab);
	}
	forget_pipes(lab);
	/* all refused, or all taken, would be a test of nothing */
	assert_in_range(taken, 1, ROUNDS - 1);
}

static void a_wrong_record_is_refused_or_made(void **state)
{
	struct lab *lab = *state;
	own_free char *path = mem_fmt("%s/fifo", lab->dir), *file = mem_fmt("%s/file", lab->dir);
	const struct itimerspec soon = { { 1, 2 }, { 3, 4 } };
	struct epoll_event event = { .events = EPOLLIN };
	sigset_t all;
	int ends[2];

	sigfillset(&all);
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	const int fds[] = {
		eventfd(300, EFD_SEMAPHORE), timerfd_create(CLOCK_MONOTONIC, 0), signalfd(-1, &all, 0), epoll_create1(0),
		ends[0], ends[1], open(path, O_RDWR), open(file, O_CREAT | O_RDWR, 0600),
		memfd_create("memfd", MFD_CLOEXEC),
	};

	/* a memfd finds its object made */
	vec_push(&lab->back.shmems, ((struct shmem){ .id = 1, .inode_id = 1 }));
	vec_push(&lab->maker.shmems, memfd_create("object", MFD_CLOEXEC));
	assert_int_equal(timerfd_settime(fds[1], 0, &soon, NULL), 0);
	assert_int_equal(epoll_ctl(fds[3], EPOLL_CTL_ADD, fds[0], &event), 0);
	assert_int_equal(epoll_ctl(fds[3], EPOLL_CTL_ADD, fds[1], &event), 0);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		const struct file *f = lab_see(lab, fds[i]);

		/* a FIFO finds the record of its file before it */
		if (f->type->save_also) {
			FileEntry *also = mem_new(sizeof(*also));

			file_entry__init(also);
			f->type->save_also(f, also);
			assert_int_equal(lab_try_load(lab, also), 0);
			file_entry__free_unpacked(also, NULL);
		}
		torment(lab, f, i);
	}
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		close(fds[i]);
}

static void write_image(struct lab *lab, const char *dir)
{
	own_store *store = NULL;

	assert_int_equal(store_create_dir(dir, &store, &lab->err), 0);
	assert_int_equal(pipe_type.save_side(&lab->seen, store, &lab->err), 0);
}

static void fill_pipes(struct lab *lab)
{
	const int flags[] = { 0, O_DIRECT };

	for (size_t i = 0; i < 2; i++) {
		int ends[2];

		assert_int_equal(pipe2(ends, flags[i]), 0);
		own_fd reader = ends[0], writer = ends[1];

		assert_int_equal(write(writer, "abc", 3), 3);
		assert_int_equal(write(writer, "defg", 4), 4);
		lab_see(lab, writer);
		lab->seen.tasks.at[0].fds.len = 0;
	}
}

/* An image without checksums, as CRIU's: each byte of it in turn is each of some others. */
static void wrong_pipe_data_is_refused_or_written(void **state)
{
	static const uint8_t values[] = { 0, 1, 0x7f, 0x80, 0xff };
	struct lab *lab = *state;
	own_free char *dir = mem_fmt("%s/images", lab->dir), *path = mem_fmt("%s/pipes-data.img", dir);
	unsigned int taken = 0, refused = 0;
	struct stat st;
	uint8_t was;

	fill_pipes(lab);
	write_image(lab, dir);
	own_fd fd = open(path, O_RDWR);

	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_size > 20);
	for (off_t at = 0; at < st.st_size; at++) {
		assert_int_equal(pread(fd, &was, 1, at), 1);
		for (size_t i = 0; i < sizeof(values); i++) {
			own_store *store = NULL;

			assert_int_equal(pwrite(fd, &values[i], 1, at), 1);
			assert_int_equal(store_open_dir(dir, &store, &lab->err), 0);
			if (pipe_type.load_side(&lab->back, store, &lab->err) < 0)
				refused++;
			else
				taken++;
			for (size_t k = 0; k < lab->back.pipes.len; k++) {
				struct file f = { .type = &pipe_type, .flags = O_WRONLY, .state = &lab->back.pipes.at[k].id };
				int made;

				if (pipe_type.make(&f, &lab->maker, &made, &lab->err) == 0)
					close(made);
			}
			forget_pipes(lab);
		}
		assert_int_equal(pwrite(fd, &was, 1, at), 1);
	}
	assert_true(taken > 0 && refused > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAB_TEST(a_wrong_record_is_refused_or_made),
		LAB_TEST(wrong_pipe_data_is_refused_or_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
