/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "wire/lanes.h"

void lanes_begin_out(struct lanes *l, struct frame_out *out)
{
	l->first_out = (struct frame_out){ .fd = -1, .transport = out->transport, .frames = out->frames,
					   .turn = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER };
	for (unsigned int i = 0; i < l->count; i++)
		l->out[i] = (struct frame_lane){ &l->transport[i], PTHREAD_MUTEX_INITIALIZER };
	out->lane = l->out;
	out->lanes = l->count;
}

/* The first frame from `next` on that comes on this lane. */
static uint64_t first_on(const struct lanes *l, unsigned int index, uint64_t next)
{
	return next + (index + l->count - next % l->count) % l->count;
}

void lanes_begin_in(struct lanes *l, struct frame_in *in)
{
	l->first_in = *in;
	for (unsigned int i = 0; i < l->count; i++)
		l->in[i] = (struct frame_in){ .fd = -1, .transport = &l->transport[i], .step = l->count,
					      .frames = first_on(l, i, in->frames) };
	in->lane = l->in;
	in->lanes = l->count;
}

void lanes_close(struct lanes *l)
{
	for (unsigned int i = 0; i < l->count; i++) {
		if (l->in[i].transport)
			log_info("channel %u: %llu bytes", i, (unsigned long long)l->in[i].bytes);
		transport_close(&l->transport[i]);
	}
	l->count = 0;
}
