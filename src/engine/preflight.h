/* SPDX-License-Identifier: Apache-2.0 */
/*
 * preflight.h - could it go on over there?  Asked before anything is made there, and alone by --check.
 *
 *	source                                             target
 *	preflight_list()   what the tree needs  ------->   preflight_look()    the same list, as it is there
 *	preflight_compare()                     <-------
 *	   v
 *	blocks: all that is in the way, each with a remedy
 *
 * Asked again at the switch, of files that were mapped meanwhile: by an exec, or with a library.
 *
 * A list is of plain values: what the source has of each is what it needs.  Frames are FRAME_CHECK; an empty one ends a list.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/vec.h"
#include "model/snapshot.h"
#include "wire/frame.h"

/* Numbers go over the wire. */
enum need_kind {
	NEED_PID = 1,           /* a: the number.  Answer: b: enum need_pid */
	NEED_FILE = 2,          /* text: path.  a: size, b: S_IFMT of its mode, 0: missing; id: build-id; flags: NEED_MAPPED */
	NEED_CPU = 3,           /* a: instruction sets, by bits of cpu_set_names; b: state components (xcr0) */
	NEED_VDSO = 4,          /* a: a sum of its code, b: its length */
	NEED_FEATURE = 5,       /* text: name of a probe.  a: 1 where it is there */
	NEED_MEMORY = 6,        /* a: bytes */
	NEED_ADDRESS = 7,       /* text: in words; a: family, type << 8, port << 16; id: the address.  Answer: b: errno of a bind */
	NEED_KINDS
};

enum need_pid { PID_FREE, PID_TAKEN, PID_TOO_LARGE };

enum { NEED_MAPPED = 1 };

#define NEED_TEXT_MAX  4095u
#define NEEDS_MAX      (1u << 20)
#define NEEDS_TEXT_MAX (64u << 20)      /* of all together */
#define BUILD_ID_BYTES 20u

struct need {
	uint32_t kind, flags;
	uint64_t a, b;
	uint8_t id[BUILD_ID_BYTES];     /* zeros: none */
	char *text;                     /* owned; NULL: none */
};

struct need_list { VEC(struct need) needs; size_t text_bytes; };         /* text_bytes: of one that was taken */

void need_list_free(struct need_list *list);

/* One thing that is in the way. */
struct preflight_block { char what[560]; const char *remedy; };

struct preflight_blocks { VEC(struct preflight_block) blocks; };

/* Of a tree that was seen: what can't be moved from here. */
void preflight_refusal(struct preflight_blocks *to, const struct err *why);

/* Pure.  EBADMSG: the answer is to another list. */
int preflight_compare(const struct need_list *wanted, const struct need_list *answer, struct preflight_blocks *ret,
		      struct err *err);

/* What a tree needs that has so many pages of its own; values are this machine's. */
int preflight_list(const struct snapshot *s, uint64_t pages, struct need_list *ret, struct err *err);
/* Files that it has mapped since an earlier snapshot. */
void preflight_list_later(const struct snapshot *before, const struct snapshot *now, struct need_list *ret);
/* The same things as they are on this machine. */
int preflight_look(struct need_list *list, struct err *err);

int need_list_send(const struct need_list *list, struct frame_out *out, struct err *err);
/* first: a frame of it that was read already, or NULL.  EBADMSG: no list. */
int need_list_take(struct need_list *ret, struct frame_in *in, const struct frame *first, struct err *err);
