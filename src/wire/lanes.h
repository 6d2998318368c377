/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes.h - one stream of frames over several connections at once.
 *
 *	frame n  ---> connection n % count --->  frame_get(), in order
 *
 * Nothing but a frame's number says where it goes, and its checksum covers the number: a frame on the wrong lane is found.
 * Each connection has a window of its own, and buffers in which what comes on it waits for its turn; several threads write
 * to several connections at once.  Who reads is one thread, and starts none: a receiver's pids are for those who arrive.
 *
 * Lanes carry one direction.  What comes back, and what must not depend on any of them, goes over the connection that was
 * there first (first_out, first_in).  When one lane fails all of them are shut down, so that nobody waits for another.
 *
 * Transports are the lanes' until lanes_close(); frame_out and frame_in refer to the lanes, and must not be used after that.
 */
#pragma once
#include "wire/frame.h"
#include "wire/transport.h"

struct lanes {
	struct transport transport[FRAME_LANES_MAX];
	unsigned int count;
	struct frame_lane out[FRAME_LANES_MAX];
	struct frame_in in[FRAME_LANES_MAX];
	struct frame_out first_out;     /* the first connection, as it was when the lanes began */
	struct frame_in first_in;
};

/* From now on `out` goes over the lanes; its next frame has the number that the reader expects next. */
void lanes_begin_out(struct lanes *l, struct frame_out *out);
/* The same of the reader. */
void lanes_begin_in(struct lanes *l, struct frame_in *in);
/* The connection that was there first: `out`, `in` where there are no lanes. */
static inline struct frame_out *lanes_first_out(struct lanes *l, struct frame_out *out)
{
	return l->count ? &l->first_out : out;
}

static inline struct frame_in *lanes_first_in(struct lanes *l, struct frame_in *in)
{
	return l->count ? &l->first_in : in;
}

/* Closes all connections; the log has what each has brought. */
void lanes_close(struct lanes *l);
