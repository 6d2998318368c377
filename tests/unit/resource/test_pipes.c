/* SPDX-License-Identifier: Apache-2.0 */
/* Pipes and FIFOs: the bytes, their boundaries and the size come back, to each description that there was. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "lab.h"

extern const struct file_type pipe_type, fifo_type;

struct ends { int reader, writer; };

static struct ends new_pipe(int flags)
{
	int fds[2];

	assert_int_equal(pipe2(fds, flags | O_NONBLOCK), 0);
	return (struct ends){ fds[0], fds[1] };
}

static int again(int fd, int flags)
{
	own_free char *path = mem_fmt("/proc/self/fd/%d", fd);
	int r = open(path, flags | O_NONBLOCK);

	assert_true(r >= 0);
	return r;
}

static void put(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void expect(int fd, const char *text)
{
	char buf[256];
	ssize_t n = read(fd, buf, sizeof(buf));

	assert_int_equal(n, strlen(text));
	assert_memory_equal(buf, text, strlen(text));
}

static void expect_empty(int fd)
{
	char c;

	assert_int_equal(read(fd, &c, 1), -1);
	assert_int_equal(errno, EAGAIN);
}

static void cycle(struct lab *lab)
{
	lab_save_and_load(lab);
	lab_make(lab);
}

static void data_and_size_come_back(void **state)
{
	struct lab *lab = *state;
	struct ends p = new_pipe(0);
	own_fd reader = p.reader, writer = p.writer;

	assert_int_equal(fcntl(writer, F_SETPIPE_SZ, 8192), 8192);
	put(writer, "what nobody ");
	put(writer, "read yet");
	lab_see(lab, reader);
	lab_see(lab, writer);
	assert_int_equal(lab->seen.pipes.len, 1);
	assert_int_equal(lab->seen.pipes.at[0].packets.len, 0);
	expect(reader, "what nobody read yet");         /* seeing has consumed nothing */
	cycle(lab);
	int in = lab_fd(lab, 1), out = lab_fd(lab, 2);

	assert_int_equal(fcntl(in, F_GETPIPE_SZ), 8192);
	put(out, "!");
	expect(in, "what nobody read yet!");
	expect_empty(in);
}

static void descriptions_are_what_they_were(void **state)
{
	struct lab *lab = *state;
	struct ends p = new_pipe(0);
	own_fd reader = p.reader, writer = p.writer;
	const int more[4] = { again(reader, O_RDONLY), again(reader, O_WRONLY), again(writer, O_WRONLY), again(writer, O_RDWR) };

	assert_int_equal(fcntl(writer, F_SETFL, 0), 0);
	lab_see(lab, writer);
	lab_see(lab, reader);
	for (size_t i = 0; i < ARRAY_LEN(more); i++)
		lab_see(lab, more[i]);
	cycle(lab);
	for (uint32_t id = 1; id <= 6; id++)
		assert_int_equal(fcntl(lab_fd(lab, id), F_GETFL), lab->seen.files.at[id - 1].flags);
	/* none is the same description as another */
	assert_int_equal(fcntl(lab_fd(lab, 1), F_SETFL, O_NONBLOCK | O_APPEND), 0);
	assert_int_equal(fcntl(lab_fd(lab, 5), F_GETFL) & O_APPEND, 0);
	put(lab_fd(lab, 6), "x");
	expect(lab_fd(lab, 3), "x");
	for (size_t i = 0; i < ARRAY_LEN(more); i++)
		close(more[i]);
}

/* An image may say that an end is there twice as pipe() makes it: still two descriptions. */
static void an_original_is_given_once(void **state)
{
	struct lab *lab = *state;
	struct ends p = new_pipe(0);
	own_fd reader = p.reader, writer = p.writer;
	own_message FileEntry *rec = lab_record(lab_see(lab, reader));

	assert_int_equal(lab_try_load(lab, rec), 0);
	rec->id = rec->pipe->id = 2;
	assert_int_equal(lab_try_load(lab, rec), 0);
	lab_make(lab);
	assert_int_equal(fcntl(lab_fd(lab, 1), F_SETFL, 0), 0);
	assert_int_equal(fcntl(lab_fd(lab, 2), F_GETFL) & O_NONBLOCK, O_NONBLOCK);
}

static void an_end_without_the_other_stays_alone(void **state)
{
	struct lab *lab = *state;
	struct ends p = new_pipe(0), q = new_pipe(0);
	own_fd reader = p.reader, writer = q.writer;

	put(p.writer, "last words");
	put(writer, "to nobody");
	close(p.writer);
	close(q.reader);
	lab_see(lab, reader);
	lab_see(lab, writer);
	assert_int_equal(poll(&(struct pollfd){ writer, POLLOUT, 0 }, 1, 0), 1);
	cycle(lab);
	for (size_t i = 0; i < lab->maker.pipes.len; i++) {
		close(lab->maker.pipes.at[i].read_fd);
		close(lab->maker.pipes.at[i].write_fd);
	}
	vec_free(&lab->maker.pipes);
	expect(lab_fd(lab, 1), "last words");
	expect(lab_fd(lab, 1), "");                     /* its end */
	int left;

	assert_int_equal(ioctl(lab_fd(lab, 2), FIONREAD, &left), 0);
	assert_int_equal(left, strlen("to nobody"));
}

static void a_full_mebibyte_comes_back(void **state)
{
	enum { BYTES = 1 << 20 };
	struct lab *lab = *state;
	struct ends p = new_pipe(0);
	own_fd reader = p.reader, writer = p.writer;
	own_free char *data = mem_new(BYTES), *got = mem_new(BYTES);

	if (fcntl(writer, F_SETPIPE_SZ, BYTES) != BYTES)
		skip();
	for (size_t i = 0; i < BYTES; i++)
		data[i] = (char)(i * 7 + i / 4096);
	assert_int_equal(write(writer, data, BYTES), BYTES);
	assert_int_equal(read(reader, got, 100), 100);
	lab_see(lab, writer);
	lab_see(lab, reader);
	cycle(lab);
	assert_int_equal(read(lab_fd(lab, 2), got, BYTES), BYTES - 100);
	assert_memory_equal(got, data + 100, BYTES - 100);
}

static void packets_stay_apart(void **state)
{
	struct lab *lab = *state;
	struct ends p = new_pipe(O_DIRECT), q = new_pipe(O_DIRECT);
	own_fd reader = p.reader, writer = p.writer, one_in = q.reader, one_out = q.writer;

	put(writer, "a");
	put(writer, "bcd");
	put(writer, "ef");
	put(one_out, "only one");
	lab_see(lab, reader);
	lab_see(lab, writer);
	lab_see(lab, one_in);
	lab_see(lab, one_out);
	assert_int_equal(lab->seen.pipes.at[0].packets.len, 3);
	assert_int_equal(lab->seen.pipes.at[1].packets.len, 1);
	cycle(lab);
	assert_int_equal(fcntl(lab_fd(lab, 2), F_GETFL) & O_DIRECT, O_DIRECT);
	expect(lab_fd(lab, 1), "a");
	expect(lab_fd(lab, 1), "bcd");
	expect(lab_fd(lab, 1), "ef");
	expect_empty(lab_fd(lab, 1));
	char c[4];

	/* what a short read leaves of a packet is lost, as ever */
	assert_int_equal(read(lab_fd(lab, 3), c, 4), 4);
	expect_empty(lab_fd(lab, 3));
}

/* It has the id already that the inode of the next one would give. */
static void ids_are_unique(void **state)
{
	struct lab *lab = *state;
	struct ends p = new_pipe(0);
	own_fd reader = p.reader, writer = p.writer;
	struct stat st;

	assert_int_equal(fstat(reader, &st), 0);
	vec_push(&lab->seen.pipes, ((struct pipe){ .id = (uint32_t)st.st_ino, .dev = st.st_dev, .ino = st.st_ino | 1ull << 32 }));
	own_message FileEntry *rec = lab_record(lab_see(lab, writer));

	assert_int_equal(lab->seen.pipes.len, 2);
	assert_int_equal(rec->pipe->pipe_id, (uint32_t)st.st_ino + 1);
}

static char *new_fifo(struct lab *lab)
{
	char *path = mem_fmt("%s/fifo", lab->dir);

	assert_int_equal(mkfifo(path, 0600), 0);
	return path;
}

static int open_fifo(const char *path, int flags)
{
	int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void a_fifo_comes_back_with_its_data(void **state)
{
	struct lab *lab = *state;
	own_free char *path = new_fifo(lab);
	int fds[3] = { open_fifo(path, O_RDONLY), open_fifo(path, O_WRONLY | O_APPEND), open_fifo(path, O_RDWR) };

	put(fds[1], "through a name");
	for (size_t i = 0; i < 3; i++) {
		assert_ptr_equal(lab_claimed_by(lab, fds[i]), &fifo_type);
		lab_see(lab, fds[i]);
	}
	assert_int_equal(lab->seen.pipes.len, 1);
	lab_save_and_load(lab);
	for (size_t i = 0; i < 3; i++)
		close(fds[i]);                          /* that was the last of it: data gone */
	lab_make(lab);
	for (uint32_t id = 1; id <= 3; id++)
		lab_is(lab, lab_fd(lab, id), snapshot_file(&lab->seen, id));
	expect(lab_fd(lab, 1), "through a name");
	put(lab_fd(lab, 2), "x");
	put(lab_fd(lab, 3), "y");
	expect(lab_fd(lab, 1), "xy");
}

static void a_fifo_that_somebody_kept_has_its_data_once(void **state)
{
	struct lab *lab = *state;
	own_free char *path = new_fifo(lab);
	own_fd kept = open_fifo(path, O_RDWR);

	put(kept, "once");
	lab_see(lab, kept);
	cycle(lab);
	expect(lab_fd(lab, 1), "once");
	expect_empty(lab_fd(lab, 1));
}

static void a_fifo_without_its_name_is_refused(void **state)
{
	struct lab *lab = *state;
	own_free char *path = new_fifo(lab);
	own_fd fd = open_fifo(path, O_RDWR);

	assert_int_equal(unlink(path), 0);
	assert_int_equal(lab_try_see(lab, fd), -EOPNOTSUPP);
	assert_int_equal(mkfifo(path, 0600), 0);        /* another one */
	assert_int_equal(lab_try_see(lab, fd), -EOPNOTSUPP);
}

static void what_is_no_fifo_any_more_is_told(void **state)
{
	struct lab *lab = *state;
	own_free char *path = new_fifo(lab);
	own_fd fd = open_fifo(path, O_RDWR);
	int made;

	lab_see(lab, fd);
	lab_save_and_load(lab);
	const struct file *f = snapshot_file(&lab->back, 1);

	assert_int_equal(unlink(path), 0);
	assert_int_equal(fifo_type.make(f, &lab->maker, &made, &lab->err), -ENOENT);
	own_fd file = open(path, O_CREAT | O_WRONLY, 0600);

	assert_int_equal(fifo_type.make(f, &lab->maker, &made, &lab->err), -ESTALE);
}

static void broken_records_are_refused(void **state)
{
	struct lab *lab = *state;
	struct ends p = new_pipe(0);
	own_free char *path = new_fifo(lab);
	own_fd reader = p.reader, writer = p.writer, fd = open_fifo(path, O_RDWR);
	own_message FileEntry *pipe = lab_record(lab_see(lab, writer)), *fifo = lab_record(lab_see(lab, fd));

	LAB_REFUSES(lab, pipe, pipe, NULL);
	LAB_REFUSES(lab, pipe, pipe->flags, O_ACCMODE);
	LAB_REFUSES(lab, pipe, pipe->fown->signum, 65);
	LAB_REFUSES(lab, fifo, fifo, NULL);
	LAB_REFUSES(lab, fifo, fifo->has_regf_id, false);
	LAB_REFUSES(lab, fifo, fifo->regf_id, 4242);
	assert_int_equal(lab_try_load(lab, pipe), 0);
	LAB_REFUSES(lab, fifo, fifo->regf_id, pipe->id);
}

/* One record of pipes-data and `payload` bytes behind it. */
static int load_data(struct lab *lab, PipeDataEntry rec, size_t payload, int times)
{
	own_free char *dir = mem_fmt("%s/data", lab->dir);
	own_free uint8_t *bytes = mem_new(payload);
	own_store *out = NULL, *in = NULL;
	own_writer *w = NULL;

	assert_int_equal(store_create_dir(dir, &out, &lab->err), 0);
	assert_int_equal(image_create(out, IMAGE_PIPES_DATA, 0, &w, &lab->err), 0);
	while (times-- > 0) {
		assert_int_equal(image_put(w, &rec.base, &lab->err), 0);
		assert_int_equal(image_put_raw(w, bytes, payload, &lab->err), 0);
	}
	assert_int_equal(image_finish(&w, &lab->err), 0);
	assert_int_equal(store_open_dir(dir, &in, &lab->err), 0);
	return pipe_type.load_side(&lab->back, in, &lab->err);
}

static void broken_data_is_refused(void **state)
{
	struct lab *lab = *state;
	uint32_t packets[] = { 4, 6 }, empty[] = { 10, 0 }, huge[] = { 11, UINT32_MAX };
	PipeDataEntry good = PIPE_DATA_ENTRY__INIT, bad;

	good.pipe_id = 7;
	good.bytes = 10;
	good.has_size = true;
	good.size = 4096;
	good.n_packets = 2;
	good.packets = packets;

	assert_int_equal(load_data(lab, good, 9, 1), -EBADMSG);
	bad = good, bad.bytes = UINT32_MAX;
	assert_int_equal(load_data(lab, bad, 10, 1), -EBADMSG);
	bad = good, bad.size = 9;
	assert_int_equal(load_data(lab, bad, 10, 1), -EBADMSG);
	bad = good, bad.size = 0;
	assert_int_equal(load_data(lab, bad, 10, 1), -EBADMSG);
	bad = good, bad.size = 1u << 31;
	assert_int_equal(load_data(lab, bad, 10, 1), -EBADMSG);
	bad = good, bad.packets = empty;
	assert_int_equal(load_data(lab, bad, 10, 1), -EBADMSG);
	bad = good, bad.packets = huge;
	assert_int_equal(load_data(lab, bad, 10, 1), -EBADMSG);
	bad = good, bad.n_packets = 1;
	assert_int_equal(load_data(lab, bad, 10, 1), -EBADMSG);
	assert_int_equal(lab->back.pipes.len, 0);
	assert_int_equal(load_data(lab, good, 10, 2), -EBADMSG);        /* the second */
	assert_int_equal(lab->back.pipes.len, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAB_TEST(data_and_size_come_back),
		LAB_TEST(descriptions_are_what_they_were),
		LAB_TEST(an_original_is_given_once),
		LAB_TEST(an_end_without_the_other_stays_alone),
		LAB_TEST(a_full_mebibyte_comes_back),
		LAB_TEST(packets_stay_apart),
		LAB_TEST(ids_are_unique),
		LAB_TEST(a_fifo_comes_back_with_its_data),
		LAB_TEST(a_fifo_that_somebody_kept_has_its_data_once),
		LAB_TEST(a_fifo_without_its_name_is_refused),
		LAB_TEST(what_is_no_fifo_any_more_is_told),
		LAB_TEST(broken_records_are_refused),
		LAB_TEST(broken_data_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
