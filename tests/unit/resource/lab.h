/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lab.h - the laws of file kinds, without root and without a dump.
 *
 *	see(make(x)) == x	lab_see, lab_make
 *	load(save(x)) == x	lab_save, lab_load: through bytes, as in an image
 *	exactly one claims	lab_claimed_by
 *
 * A lab is a small dump (`seen`) and a small restore of it (`back`) on this
 * process's own descriptors.  Its steps fail the test where they fail, but for
 * those that are named try.
 */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "image/record.h"
#include "image/store.h"
#include "resource/resource.h"

struct lab {
	char dir[64];           /* for images and FIFOs */
	struct snapshot seen, back;
	struct maker maker;     /* of back */
	struct err err;
};

int lab_setup(void **state);
int lab_teardown(void **state);

/* The kind that claims this descriptor; fails unless exactly one does.  NULL: none. */
const struct file_type *lab_claimed_by(struct lab *lab, int fd);

/* Adds the open file behind fd to lab->seen, under the next id, and fd to its task's table. */
struct file *lab_see(struct lab *lab, int fd);
int lab_try_see(struct lab *lab, int fd);
/* Is that descriptor what f says?  Fails the test when not. */
void lab_is(struct lab *lab, int fd, const struct file *f);

/* resolve, save, images, load: all of lab->seen comes into lab->back. */
void lab_save_and_load(struct lab *lab);
/* Loads one record into lab->back: 0 or -errno. */
int lab_try_load(struct lab *lab, const FileEntry *rec);

/* make of all shared memory and files of lab->back, flags as the engine sets them, then attach and seals. */
void lab_make(struct lab *lab);
int lab_fd(const struct lab *lab, uint32_t id);         /* what was made for that file */

/* Their records are the same but for the ids. */
void lab_equal(const struct file *a, const struct file *b);
/* One record as a message, for changing it; own_message. */
FileEntry *lab_record(const struct file *f);

#define LAB_TEST(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

/* The record with that field changed is EBADMSG. */
#define LAB_REFUSES(lab, rec, field, value) do {                                        \
		__typeof__((rec)->field) was_ = (rec)->field;                           \
		(rec)->field = value;                                                   \
		assert_int_equal(lab_try_load(lab, rec), -EBADMSG);                     \
		(rec)->field = was_;                                                    \
	} while (0)
