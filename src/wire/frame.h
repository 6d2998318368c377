/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.h - one stream of bytes that carries many things, and of which every byte is checked.
 *
 *	head     magic, version
 *	frame    type, length, checksums; then `length` bytes           (as many as there are)
 *	seal     a frame that counts the frames and bytes before it: nothing is missing
 *
 * One checksum covers what a frame carries.  Another covers that one, the frame's place in the stream, its type and its length: a
 * frame that is changed, left out, sent twice or in another place is found, and before its bytes are read, since who waited for more
 * of them than there are would wait for a writer who waits for an answer.  What ends without a seal was cut.
 *
 * Works on any descriptor (pipe, socket, file), or on a transport.  Both stay the caller's.  Bytes come from anywhere: lengths
 * are limited, and what is in a frame is for its reader to check.
 */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

#define FRAME_BYTES_MAX (1u << 20)      /* of what a frame carries */
#define FRAME_PARTS_MAX 160             /* pieces of memory that one frame is gathered from */

/* Numbers are the format's. */
enum frame_type {
	FRAME_IMAGE = 1,        /* the name of an image; its bytes follow */
	FRAME_BYTES = 2,        /* some of them */
	FRAME_PAGES_FILE = 3,   /* there is a pages file, and how large it is */
	FRAME_STATE_END = 4,    /* all images and pages files were named */
	FRAME_PAGES = 5,        /* some of a pages file */
	FRAME_SEAL = 6,
	/* of a migration: see engine/migrate.h */
	FRAME_HELLO = 16, FRAME_ROUND = 17, FRAME_RUNS = 18, FRAME_DROP = 19, FRAME_KEEP = 20, FRAME_LAST = 21, FRAME_COMMIT = 22,
	FRAME_SAY = 23,
	FRAME_CHECK = 24,       /* engine/preflight.h */
	FRAME_CHANNELS = 25,    /* engine/migrate_channels.h */
	FRAME_ALIVE = 26,       /* nothing: the writer is busy elsewhere; readers never see it */
	FRAME_TYPES
};

static inline bool frame_type_is_known(uint32_t type)
{
	return (type >= FRAME_IMAGE && type <= FRAME_SEAL) || (type >= FRAME_HELLO && type < FRAME_TYPES);
}

#define FRAME_LANES_MAX 16u

struct transport;

/* One of several connections that carry a stream (lanes.h). */
struct frame_lane { struct transport *transport; pthread_mutex_t lock; };

struct frame_out {
	int fd;
	struct transport *transport;    /* instead; NULL: the descriptor */
	struct frame_lane *lane;        /* instead of both, not owned */
	unsigned int lanes;
	pthread_mutex_t turn;           /* whose frame goes, where there are no lanes */
	pthread_mutex_t lock;           /* over all below; frames: whoever reserves */
	uint64_t frames, bytes;         /* so far; bytes: all that was written */
	bool lends;                     /* the frame that is being put */
	struct err failed;              /* a frame did not go, or not all of it: nothing may follow, and all fail of this */
	uint64_t limit;                 /* bytes a second; 0: as fast as it goes */
	uint64_t free_ns;               /* with a limit: when what was written would have gone by */
	/* optional: told after each frame */
	void (*sent)(void *arg, uint64_t bytes);
	void *sent_arg;
};

int frame_out_begin(struct frame_out *out, int fd, struct err *err);
int frame_out_begin_on(struct frame_out *out, struct transport *t, struct err *err);
int frame_put(struct frame_out *out, enum frame_type type, const struct iovec *parts, size_t count, struct err *err);

/*
 * The same in two steps, for several threads: who is next reserves a place, by which the order is fixed; what is put there may
 * take as long as it does.  Nobody else may reserve at the same time; a place that was reserved must be used.
 */
struct frame_place {
	uint64_t number;
	uint64_t end;                   /* out->bytes when it was put */
	uint64_t bytes;                 /* of it, with its head */
	uint64_t wait_ns;               /* that writing took: what the wire costs */
};
void frame_reserve(struct frame_out *out, struct frame_place *ret_place);
int frame_put_at(struct frame_out *out, struct frame_place *place, enum frame_type type, const struct iovec *parts, size_t count,
		 struct err *err);
/*
 * Whole pages among the parts are lent where the reader of a pipe has said that it copies what it reads: the pipe then
 * has them by reference, and they must stay as they are until frame_was_read().  1: lent; 0: as frame_put_at().
 */
int frame_lend_at(struct frame_out *out, struct frame_place *place, enum frame_type type, const struct iovec *parts, size_t count,
		  struct err *err);
/* put: an `end` that there was already.  Are the first `until` bytes out of the pipe, or will nobody read them? */
bool frame_was_read(const struct frame_out *out, uint64_t put, uint64_t until);
/* The last frame.  On a pipe or socket returns when the reader took all of it, or -EPIPE when it never will. */
int frame_out_seal(struct frame_out *out, struct err *err);

/*
 * A socket has a way back: who reads the stream says on it what became of it, and who wrote it waits for that after the
 * seal.  EPIPE: the reader went without a word, and nobody knows; EREMOTEIO: the reader's own words.  On anything else
 * both do nothing.
 */
int frame_wait_answer(int fd, struct err *err);
/* After a failed frame_put(): the reader's own words for it, where it left some. */
int frame_failed(int fd, struct err *err);
/* text: NULL when all is well.  Nobody has to be there to read it. */
void frame_answer(int fd, const char *text);

struct frame {
	enum frame_type type;
	uint32_t len_bytes;
	uint8_t *bytes;                 /* the reader's (free) */
	uint64_t sum;
};

struct frame_in {
	int fd;
	struct transport *transport;
	struct frame_in *lane;          /* instead of both, not owned */
	unsigned int lanes;
	uint64_t frames, bytes;
	uint64_t step;                  /* from one frame's number to the next one's; 0: 1 */
	bool sealed;
};

/* A file that begins like a stream; false for what can't be read twice. */
bool frame_is_stream(int fd);
/* Says to who writes into a pipe that we copy what we read, by a lock on a byte that the pipe has not. */
int frame_in_begin(struct frame_in *in, int fd, struct err *err);
int frame_in_begin_on(struct frame_in *in, struct transport *t, struct err *err);
/* The next frame, or EBADMSG: cut, or no frame.  After the seal there is none.  Pages are not checked yet, all else is. */
int frame_get(struct frame_in *in, struct frame *ret, struct err *err);
/* For any thread. */
int frame_check(const struct frame *f, struct err *err);
