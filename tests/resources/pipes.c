/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes and FIFOs: what is in them, how large they are, whose ends are whose,
 * and who waits at them. A child holds some of the ends. "packets" adds one in
 * packet mode.
 */
#include <linux/kcmp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "res.h"

#define BIG_BYTES (256 << 10)
#define PACKETS 5

enum which { DATA, EMPTY, PACKET, BIG, FULL, TO_CHILD, FROM_CHILD, NO_READER, NO_WRITER, ONE_END_TWICE, FIFO, FIFO_RDWR, KINDS };

struct world {
	bool packets;
	int in[KINDS], out[KINDS];	/* read and write ends, -1 closed */
	pid_t child;
	volatile ssize_t blocked_wrote;	/* by the thread that writes to FULL; 0 while it waits */
	pid_t blocked_tid;
	struct res *r;
};

static const char packet_sizes[PACKETS] = { 1, 100, 7, 64, 3 };

static int queued(int fd)
{
	int bytes = -1;

	ioctl(fd, FIONREAD, &bytes);
	return bytes;
}

static void put_pattern(struct res *r, int fd, size_t bytes, uint64_t seed)
{
	static char text[BIG_BYTES];

	res_fill(text, bytes, seed);
	MUST(r, write(fd, text, bytes) == bytes);
}

static void take_pattern(struct res *r, int fd, size_t bytes, uint64_t seed, const char *what)
{
	static char text[BIG_BYTES];

	WANT_EQ(r, queued(fd), bytes, "%s: bytes queued", what);
	WANT_EQ(r, read(fd, text, bytes), bytes, "%s: read", what);
	WANT_EQ(r, res_differs(text, bytes, seed), -1, "%s: first wrong byte", what);
}

static void packets_put(struct res *r, int fd)
{
	char text[128];

	for (int p = 0; p < PACKETS; p++) {
		memset(text, 'a' + p, sizeof(text));
		MUST(r, write(fd, text, packet_sizes[p]) == packet_sizes[p]);
	}
}

/* What is queued from the start, and again at the end of each round. */
static void refill(struct res *r, struct world *w)
{
	put_pattern(r, w->out[DATA], 3000, 1);
	if (w->packets)
		packets_put(r, w->out[PACKET]);
	put_pattern(r, w->out[BIG], BIG_BYTES - 8 * RES_PAGE, 2);
	put_pattern(r, w->out[TO_CHILD], 800, 3);
	put_pattern(r, w->out[FIFO], 1600, 4);
	put_pattern(r, w->out[FIFO_RDWR], 8, 5);
}

static void *writer_run(void *arg)
{
	static char page[RES_PAGE];
	struct world *w = arg;

	memset(page, 'w', sizeof(page));
	w->blocked_tid = gettid();
	w->blocked_wrote = write(w->out[FULL], page, sizeof(page));
	return NULL;
}

static void full_make(struct res *r, struct world *w)
{
	pthread_t id;

	for (int i = 0; i < 16; i++)
		put_pattern(r, w->out[FULL], RES_PAGE, 100 + i);
	w->blocked_wrote = 0;
	w->blocked_tid = 0;
	MUST(r, pthread_create(&id, NULL, writer_run, w) == 0);
	pthread_detach(id);
	while (!__atomic_load_n(&w->blocked_tid, __ATOMIC_SEQ_CST))
		usleep(100);
	WANT(r, res_sleeps_in(w->blocked_tid, SYS_write), "writer to a full pipe does not wait");
}

static void make(struct res *r, struct world *w)
{
	for (int k = 0; k < FIFO; k++) {
		int ends[2];

		MUST(r, pipe2(ends, k == PACKET && w->packets ? O_DIRECT | O_NONBLOCK : 0) == 0);
		w->in[k] = ends[0];
		w->out[k] = ends[1];
	}
	MUST(r, fcntl(w->out[BIG], F_SETPIPE_SZ, BIG_BYTES) == BIG_BYTES && fcntl(w->out[EMPTY], F_SETPIPE_SZ, RES_PAGE) == RES_PAGE);
	MUST(r, fcntl(w->in[EMPTY], F_SETFL, O_NONBLOCK) == 0);
	MUST(r, mkfifo("fifo", 0600) == 0 && mkfifo("fifo-rdwr", 0600) == 0);
	w->in[FIFO] = open("fifo", O_RDONLY | O_NONBLOCK);
	w->out[FIFO] = open("fifo", O_WRONLY);
	w->in[FIFO_RDWR] = w->out[FIFO_RDWR] = open("fifo-rdwr", O_RDWR);
	MUST(r, w->in[FIFO] >= 0 && w->out[FIFO] >= 0 && w->in[FIFO_RDWR] >= 0);
	w->in[ONE_END_TWICE] = dup(w->out[ONE_END_TWICE]);
	put_pattern(r, w->out[NO_WRITER], 64, 6);
}

/* The child has its ends of two pipes and no other descriptor of them. */
static void child_check(struct res *r, void *arg)
{
	struct world *w = arg;

	take_pattern(r, w->in[TO_CHILD], 800, 3, "pipe to the child");
	put_pattern(r, w->out[FROM_CHILD], 80, 7);
	WANT_EQ(r, syscall(SYS_kcmp, getpid(), getppid(), KCMP_FILE, w->out[DATA], w->out[DATA]), 0, "end held by both tasks");
}

static void family_make(struct res *r, struct world *w)
{
	w->child = fork();
	MUST(r, w->child >= 0);
	if (w->child == 0) {
		for (int k = EMPTY; k < KINDS; k++) {
			if (k != TO_CHILD)
				close(w->in[k]);
			if (k != FROM_CHILD)
				close(w->out[k]);
		}
		res_serve(r, child_check, w);
	}
	close(w->in[TO_CHILD]);
	close(w->out[FROM_CHILD]);
	close(w->in[NO_READER]);
	close(w->out[NO_WRITER]);
}

static void full_check(struct res *r, struct world *w)
{
	char page[RES_PAGE];

	WANT_EQ(r, w->blocked_wrote, 0, "writer to a full pipe came back with");
	for (int i = 0; i < 16; i++) {
		WANT_EQ(r, read(w->in[FULL], page, RES_PAGE), RES_PAGE, "full pipe, page %d: read", i);
		WANT_EQ(r, res_differs(page, RES_PAGE, 100 + i), -1, "full pipe, page %d: first wrong byte", i);
	}
	WANT(r, read(w->in[FULL], page, RES_PAGE) == RES_PAGE && page[0] == 'w' && page[RES_PAGE - 1] == 'w', "page of the writer that waited");
	for (int i = 0; i < 10000 && !w->blocked_wrote; i++)
		usleep(1000);
	WANT_EQ(r, w->blocked_wrote, RES_PAGE, "writer that waited: written");
	full_make(r, w);
}

static void packets_check(struct res *r, struct world *w)
{
	char text[256];

	for (int p = 0; p < PACKETS; p++) {
		WANT_EQ(r, read(w->in[PACKET], text, sizeof(text)), packet_sizes[p], "packet %d: size", p);
		WANT(r, text[0] == 'a' + p, "packet %d: wanted '%c', found '%c'", p, 'a' + p, text[0]);
	}
	WANT(r, read(w->in[PACKET], text, sizeof(text)) == -1 && errno == EAGAIN, "packets: one more, or not O_NONBLOCK");
	WANT_EQ(r, fcntl(w->out[PACKET], F_GETFL) & (O_DIRECT | O_NONBLOCK), O_DIRECT | O_NONBLOCK, "packets: flags");
}

static void ends_check(struct res *r, struct world *w)
{
	struct pollfd no_reader = { w->out[NO_READER], 0, 0 };      /* POLLERR comes unasked */
	char text[128];

	/* a child that was just forked may have the other end a moment longer */
	for (int i = 0; i < 2000 && !(no_reader.revents & POLLERR); i++)
		poll(&no_reader, 1, 1);
	WANT_EQ(r, no_reader.revents & POLLERR, POLLERR, "write end without a reader");
	if (r->round == 1)
		take_pattern(r, w->in[NO_WRITER], 64, 6, "read end without a writer");
	WANT_EQ(r, read(w->in[NO_WRITER], text, sizeof(text)), 0, "read end without a writer: end of file");
	WANT_EQ(r, syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, w->in[ONE_END_TWICE], w->out[ONE_END_TWICE]), 0, "write end and its dup");
	WANT(r, read(w->in[EMPTY], text, 1) == -1 && errno == EAGAIN, "empty pipe is not empty, or lost O_NONBLOCK");
	WANT_EQ(r, fcntl(w->out[EMPTY], F_GETFL) & O_NONBLOCK, 0, "empty pipe: O_NONBLOCK of the other end");
	WANT_EQ(r, fcntl(w->out[EMPTY], F_GETPIPE_SZ), RES_PAGE, "empty pipe: size");
	WANT_EQ(r, fcntl(w->out[BIG], F_GETPIPE_SZ), BIG_BYTES, "big pipe: size");
	WANT_EQ(r, fcntl(w->out[DATA], F_GETPIPE_SZ), 16 * RES_PAGE, "pipe: size");
}

static void fifos_check(struct res *r, struct world *w)
{
	struct stat a, b, c;
	char text[8];
	int fd = open("fifo", O_WRONLY | O_NONBLOCK | O_CLOEXEC);

	WANT(r, fd >= 0 && fstat(fd, &a) == 0 && fstat(w->in[FIFO], &b) == 0 && fstat(w->out[FIFO], &c) == 0 && a.st_ino == b.st_ino &&
	     a.st_ino == c.st_ino, "descriptors of the FIFO are not of the file with its name");
	take_pattern(r, w->in[FIFO], 1600, 4, "FIFO");
	WANT(r, write(fd, "n", 1) == 1 && read(w->in[FIFO], text, 8) == 1 && text[0] == 'n', "what is written by name does not arrive");
	close(fd);
}

static void check(struct res *r, struct world *w)
{
	char text[8] = "";

	take_pattern(r, w->in[DATA], 3000, 1, "pipe");
	WANT(r, write(w->out[DATA], "x", 1) == 1 && read(w->in[DATA], text, 1) == 1 && text[0] == 'x', "ends of a pipe are not joined");
	if (w->packets)
		packets_check(r, w);
	take_pattern(r, w->in[BIG], BIG_BYTES - 8 * RES_PAGE, 2, "big pipe");
	full_check(r, w);
	ends_check(r, w);
	fifos_check(r, w);
	take_pattern(r, w->in[FIFO_RDWR], 8, 5, "FIFO, one descriptor for both");
	res_ask(r, w->child);
	take_pattern(r, w->in[FROM_CHILD], 80, 7, "pipe from the child");
}

int main(int argc, char **argv)
{
	static struct world w;
	struct res r = res_start(argc, argv);

	w.packets = argc > 2 && strcmp(argv[2], "packets") == 0;
	make(&r, &w);
	family_make(&r, &w);
	full_make(&r, &w);
	refill(&r, &w);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		check(&r, &w);
		refill(&r, &w);
		res_done(&r);
	}
}
