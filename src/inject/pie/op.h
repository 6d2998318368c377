/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op.h - the flat list that the interpreter runs inside another task.
 *
 * Shared by ferry and by the freestanding interpreter (interp.c): plain
 * numbers, no pointers, the same layout on both sides.  A header is followed
 * at once by its ops.  The interpreter stops at the first result that is not
 * the wanted one and leaves index and result in the header.
 */
#pragma once
#include <stdint.h>

enum op_want {
	OP_WANT_ZERO,           /* the call returns 0 */
	OP_WANT_OK,             /* anything but -1..-4095 */
	OP_WANT_ANY,            /* never mind */
	OP_WANT_VALUE,          /* exactly op.value */
};

struct op {
	uint32_t nr;            /* system call */
	uint32_t want;          /* enum op_want */
	uint64_t arg[6];
	uint64_t value;
};

struct op_header {
	uint64_t count;
	uint64_t index;         /* the op being run; count when all are done */
	int64_t result;         /* of the op that failed */
};
