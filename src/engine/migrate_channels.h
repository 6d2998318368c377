/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_channels.h - more connections for what the source sends.
 *
 *	source                                     target
 *	hello (so many, please)  ------->          listens where the first connection came in
 *	                         <-------          channels: a port, and a number that nobody knows beforehand
 *	connects so often, and on each:
 *	channels (the number, which one) -->       takes those that know it, in their order; others are sent away
 *
 * From then on all frames of the source go over these (wire/lanes.h), and the target's words over the first one.  A target
 * that can't listen says port 0, and all goes over the first one.
 */
#pragma once
#include "engine/migrate.h"
#include "wire/lanes.h"

/* After hello.  The caller closes the lanes, whatever is returned. */
int channels_connect(const struct migrate_options *options, struct frame_out *out, struct frame_in *in, struct lanes *ret,
		     struct err *err);
/* `wanted`: what the source has said in its hello. */
int channels_accept(const struct receive_options *options, uint32_t wanted, struct frame_out *out, struct frame_in *in,
		    struct lanes *ret, struct err *err);
