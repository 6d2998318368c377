/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_hello.h - who is there, and is it there now?
 *
 *	hello    what this side is, and a number that nobody knows beforehand      both at once
 *	echo     the other side's number
 *
 * Who plays back what was recorded once does not know the number of today.  Nothing is made before that.
 */
#pragma once
#include <stdint.h>

#include "engine/migrate.h"
#include "wire/frame.h"
#include "wire/transport.h"

#define MIGRATE_VERSION 4u

struct migrate_hello {
	uint32_t version, flags;
	uint64_t vdso;                  /* its checksum: programs bring pointers into it */
	uint64_t number[2];
	uint32_t channels;              /* that the source wants beside this connection */
	uint32_t reserved;
};

enum { HELLO_CHECK = 1 };               /* flags: only to ask (preflight.h) */

/* The target's words, safe for a terminal.  EREMOTEIO: it has failed, and says why; EBADMSG: it is something else. */
int migrate_words(const struct frame *f, const char *peer, struct migrate_say *ret, struct err *err);

/* What of it is the caller's. */
struct hello_words { uint32_t flags, channels; };

/*
 * The same on both sides: begins both directions on the transport, sends ours, takes the other's, echoes its number, and waits for
 * ours.  EPROTO: it is no ferry of this version; EOPNOTSUPP: it runs another kernel; EKEYREJECTED: a replay.
 */
int migrate_hello(struct frame_out *out, struct frame_in *in, struct transport *transport, const struct hello_words *ours,
		  struct hello_words *ret_theirs, struct err *err);
