/* SPDX-License-Identifier: Apache-2.0 */
/* Writes that come from devices and from the kernel, some of them behind the page tables. */
#include "tracked.h"

#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* So many that none is read into again soon: what went unseen at a link stays so. */
enum { SLOTS = 4096, PARTS = 256, BATCH = 32 };

static char *slots;                     /* a page each */
static _Atomic int stop_reading;
static size_t last_in[SLOTS];           /* which page of the file was read into a slot last */

static size_t slot_of(size_t n)
{
	return n % SLOTS;
}

static size_t part_of(size_t n)
{
	return (n + n / SLOTS * 3) % PARTS;
}

/* The file says in each page which one it is. */
static void check_slots(void)
{
	for (size_t k = 0; k < SLOTS; k++)
		CHECK(page_has(slots + k * PAGE, last_in[k], 1));
}

static int open_direct(void)
{
	int fd = open(disk_file, O_RDONLY | O_DIRECT);

	slots = anon(SLOTS);
	if (fd < 0 || pread(fd, slots, PAGE, 0) != PAGE)
		skip("O_DIRECT");
	for (size_t k = 0; k < SLOTS; k++)
		fill(slots + k * PAGE, 0, 1, 1);
	return fd;
}

static void *read_on(void *arg)
{
	int fd = (int)(uintptr_t)arg;

	for (size_t n = 1; !stop_reading; n++) {
		CHECK(pread(fd, slots + slot_of(n) * PAGE, PAGE, (off_t)(part_of(n) * PAGE)) == PAGE);
		last_in[slot_of(n)] = part_of(n);
	}
	return NULL;
}

/* In flight at every link: what is read is as much the program's as what it writes. */
static void direct_reads(void)
{
	pthread_t t;

	CHECK(pthread_create(&t, NULL, read_on, (void *)(uintptr_t)open_direct()) == 0);
	next();
	next();
	stop_reading = 1;
	CHECK(pthread_join(t, NULL) == 0);
	check_slots();
}

static void aio_part(aio_context_t ctx, int fd, size_t n)
{
	struct iocb cb = { .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd, .aio_nbytes = PAGE,
			   .aio_buf = (uintptr_t)slots + slot_of(n) * PAGE, .aio_offset = (int64_t)(part_of(n) * PAGE) };
	struct iocb *list = &cb;

	CHECK(syscall(SYS_io_submit, ctx, 1, &list) == 1);
	last_in[slot_of(n)] = part_of(n);
}

/* libaio: submitted before a link is taken, complete while it is. */
static void aio_reads(void)
{
	int fd = open_direct();
	aio_context_t ctx = 0;
	struct io_event events[BATCH];

	if (syscall(SYS_io_setup, BATCH, &ctx) < 0)
		skip("io_setup");
	atomic_store(&board[DONE], ++stage);    /* next(), but busy */
	for (size_t n = 1; atomic_load(&board[GO]) < 1; n += BATCH) {
		for (size_t k = 0; k < BATCH; k++)
			aio_part(ctx, fd, n + k);
		for (long got = 0, r; got < BATCH; got += r > 0 ? r : 0)         /* a stop ends it with what it has */
			r = syscall(SYS_io_getevents, ctx, BATCH - got, BATCH - got, events, NULL);
	}
	CHECK(syscall(SYS_io_destroy, ctx) == 0);
	close(fd);
	next();
	check_slots();
}

struct ring {
	int fd;
	struct io_uring_params params;
	char *sq;
	size_t sq_bytes;
	struct io_uring_sqe *sqes;
};

static void ring_open(struct ring *r, void *buffer, size_t len_bytes)
{
	struct iovec buf = { buffer, len_bytes };

	*r = (struct ring){ 0 };
	r->fd = (int)syscall(SYS_io_uring_setup, 4, &r->params);
	if (r->fd < 0 || !(r->params.features & IORING_FEAT_SINGLE_MMAP))
		skip("io_uring");
	r->sq_bytes = r->params.cq_off.cqes + r->params.cq_entries * sizeof(struct io_uring_cqe) + 4096;
	r->sq = mmap(NULL, r->sq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
	r->sqes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQES);
	CHECK(r->sq != MAP_FAILED && r->sqes != MAP_FAILED);
	CHECK(syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_BUFFERS, &buf, 1) == 0);
}

static void ring_read_fixed(struct ring *r, int fd, void *to, size_t len_bytes, uint8_t flags)
{
	_Atomic uint32_t *tail = (_Atomic uint32_t *)(r->sq + r->params.sq_off.tail);
	uint32_t *array = (uint32_t *)(r->sq + r->params.sq_off.array);

	r->sqes[0] = (struct io_uring_sqe){ .opcode = IORING_OP_READ_FIXED, .fd = fd, .addr = (uintptr_t)to,
					    .len = (uint32_t)len_bytes, .flags = flags };
	array[*tail & (r->params.sq_entries - 1)] = 0;
	atomic_fetch_add(tail, 1);
	CHECK(syscall(SYS_io_uring_enter, r->fd, 1, 0, 0, NULL, 0) == 1);
}

static void ring_wait(struct ring *r, int wanted)
{
	const struct io_uring_cqe *cqes = (void *)(r->sq + r->params.cq_off.cqes);

	CHECK(syscall(SYS_io_uring_enter, r->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 0);
	CHECK(cqes[0].res == wanted);
}

static void ring_close(struct ring *r)
{
	munmap(r->sq, r->sq_bytes);
	munmap(r->sqes, PAGE);
	close(r->fd);
}

/* Waits at the link for what a pipe gets behind it, and is written by way of pages that were pinned before. */
static void ring_read(void)
{
	char *m = anon(100), *source = anon(1);
	int ends[2];
	struct ring ring;

	fill(m, 0, 100, 1);
	fill(source, 0, 1, 4);
	CHECK(pipe2(ends, O_CLOEXEC) == 0);
	ring_open(&ring, m, 100 * PAGE);
	ring_read_fixed(&ring, ends[0], m + 30 * PAGE, PAGE, 0);
	next();
	CHECK(write(ends[1], source, PAGE) == PAGE);
	ring_wait(&ring, PAGE);
	ring_close(&ring);
	next();
	CHECK(has(m, 0, 30, 1) && page_has(m + 30 * PAGE, 0, 4) && has(m, 31, 100, 1));
}

/* A thread that the kernel has made for the program's ring, and that outlives it: nobody can ask it anything. */
static void ring_worker(void)
{
	int ends[2], fd = memfd_of(1, 3);
	char *m = anon(100);
	struct ring ring;

	fill(m, 0, 100, 1);
	CHECK(pipe2(ends, O_CLOEXEC) == 0 && splice(fd, NULL, ends[1], NULL, PAGE, 0) == PAGE);
	ring_open(&ring, m, 100 * PAGE);
	ring_read_fixed(&ring, ends[0], m + 30 * PAGE, PAGE, IOSQE_ASYNC);
	ring_wait(&ring, PAGE);
	ring_close(&ring);
	next();
	fill(m, 40, 41, 2);
	next();
	CHECK(has(m, 0, 30, 1) && page_has(m + 30 * PAGE, 0, 3) && has(m, 31, 40, 1) && has(m, 40, 41, 2) && has(m, 41, 100, 1));
}

/* Writes of the kernel's on behalf of the program. */
static void kernel_writes(void)
{
	int fd = memfd_of(100, 2), ends[2];
	char *m = anon(300);

	fill(m, 0, 300, 1);
	CHECK(pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], "x", 1) == 1);
	next();
	CHECK(pread(fd, m, 10 * PAGE, 0) == 10 * PAGE);
	CHECK(preadv(fd, &(struct iovec){ m + 50 * PAGE, PAGE }, 1, 50 * PAGE) == PAGE);
	memset(m + 200 * PAGE, 0, PAGE);
	CHECK(read(ends[0], m + 200 * PAGE, 1) == 1);
	next();
	CHECK(has(m, 0, 10, 2) && has(m, 10, 50, 1) && has(m, 50, 51, 2) && has(m, 51, 200, 1) && has(m, 201, 300, 1));
	CHECK(m[200 * PAGE] == 'x' && m[200 * PAGE + 1] == 0);
}

/* Dies of the call by which a program is tracked. */
static void filtered(void)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(rules) / sizeof(rules[0]), rules };

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0);
	next();
	next();
}

const struct row io_rows[] = {
	{ "direct", direct_reads }, { "aio", aio_reads }, { "io-uring", ring_read }, { "io-worker", ring_worker }, { "kernel-writes", kernel_writes },
	{ "filtered", filtered }, { 0 },
};
