/* SPDX-License-Identifier: Apache-2.0 */
/*
 * script.h - system calls written down before they are made in a vessel.
 *
 * A task whose address space is being replaced has no libc and no way back, so
 * what must happen in it is compiled into a flat list of calls with wanted
 * results, which the interpreter (pie/) runs there in one go: 1.7 us a call
 * against 20 us by ptrace.  Resource kinds append calls; nobody shares an
 * argument struct.  A script can be compared in a unit test and blamed: each
 * op keeps its name, and a failure is told as "mmap 7f00-7f10: File exists".
 *
 * A script belongs to a place in one task (an `area` that is mapped there):
 * data first, ops behind.  Addresses given out by script_data() are addresses
 * in the task.  Who runs it: vessel_run().
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/taddr.h"
#include "base/vec.h"
#include "inject/pie/op.h"



struct script {
	taddr area;
	size_t data_max, ops_max;       /* room in bytes; ops (with header) start at area + data_max */
	VEC(uint8_t) data;
	VEC(struct op) ops;
	VEC(char *) names;              /* one an op */
	bool overflow;
};

void script_init(struct script *s, taddr area, size_t data_max, size_t ops_max);
/* Forgets ops and data; the area stays. */
void script_clear(struct script *s);
void script_free(struct script *s);
#define own_script __attribute__((cleanup(script_free))) struct script

/* Is there room for `ops` more calls and `data` more bytes?  Loops over what
 * may be long ask this and run what they have so far.  Who does not ask and
 * overflows gets ENOSPC when the script is run. */
bool script_fits(const struct script *s, size_t ops, size_t data_bytes);

/* Copies bytes to where the task will see them; aligned to 16. */
taddr script_data(struct script *s, const void *bytes, size_t len_bytes);

/* Appends a call.  Arguments are integers or taddr. */
#define script_call(s, want, nr, ...) \
	script_add(s, want, 0, nr, (const uint64_t[6]){ __VA_ARGS__ }, #nr)
/* The same with a name for the error. */
#define script_call_as(s, want, nr, name, ...) \
	script_add(s, want, 0, nr, (const uint64_t[6]){ __VA_ARGS__ }, name)
/* The result must be `value`. */
#define script_call_value(s, value, nr, name, ...) \
	script_add(s, OP_WANT_VALUE, value, nr, (const uint64_t[6]){ __VA_ARGS__ }, name)

void script_add(struct script *s, enum op_want want, uint64_t value, uint32_t nr,
		const uint64_t arg[6], const char *name);

/* The bytes to be laid at area + data_max: header and ops.  Freed by the caller. */
void *script_encode(const struct script *s, size_t *ret_len_bytes);
/* What a header that came back says: 0, or the error of the op that failed. */
int script_verdict(const struct script *s, const struct op_header *h, struct err *err);
