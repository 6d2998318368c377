/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ps_protocol.h - the messages of the page server's protocol, which is CRIU's: bytes to struct and back, no I/O.
 *
 *	source                                  server
 *	PARENT  which one?      -------------->
 *	        <-------------- i32: 1 its parent directory has it, 0 not, below 0 an error
 *	OPEN2   which one?      -------------->
 *	        <-------------- u8: 1 there is a parent directory for it
 *	ADD     a run, and its bytes if they are here (else the parent has them) --> ...
 *	CLOSE                   -------------->
 *	        <-------------- i32: 0 all is stored
 *
 * A header is 32 bytes, little-endian: u32 with the command below and the flags
 * of the run (enum page_where's values) above, 4 bytes of anything, u64 pages,
 * u64 address, u64 id << 8 | type.
 *
 * Ferry's sources put a checksum into fields that are otherwise free, of a first
 * PARENT that asks about nothing (it is announced) and of the last message.
 *
 * What is decoded is plausible: a known command, a run inside user space at a
 * page's begin, an id that the images can have.  EBADMSG for anything else.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define PS_HEADER_BYTES 32u
#define PS_PAGE_BYTES   4096u

enum ps_command {
	PS_OPEN = 3,            /* no answer */
	PS_OPEN2 = 4,
	PS_PARENT = 5,
	PS_ADD = 6,             /* and two older forms of it */
	PS_CLOSE = 0x1023,
	PS_FORCE_CLOSE = 0x1024 /* the same, of a socket that was handed over: the server need not wait for its end */
};

enum ps_type { PS_TASK = 1, PS_SHMEM = 2 };

enum ps_flag { PS_IN_PARENT = 1, PS_HERE = 4 };

struct ps_message {
	enum ps_command command;
	/* all but CLOSE and FORCE_CLOSE */
	enum ps_type type;
	uint64_t id;
	/* ADD */
	enum ps_flag where;
	uint64_t start, pages;
	/* PARENT, CLOSE, FORCE_CLOSE */
	bool summed;
	uint64_t sum;
};

void ps_encode(const struct ps_message *m, uint8_t ret_bytes[static PS_HEADER_BYTES]);
int ps_decode(const uint8_t bytes[static PS_HEADER_BYTES], struct ps_message *ret, struct err *err);
