/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vec.h - a growing array of any plain type.
 *
 *	VEC(struct run) runs = { 0 };
 *	struct run *r = vec_add(&runs);         zeroed; dies when out of memory
 *	for (size_t i = 0; i < runs.len; i++) use(&runs.at[i]);
 *	vec_free(&runs);
 *
 * Addresses of elements change when it grows: keep indices.
 */
#pragma once
#include <stddef.h>

#define VEC(type) struct { type *at; size_t len, cap; }

#define vec_add(v)  ((__typeof__((v)->at))vec_grow_((void **)&(v)->at, &(v)->len, &(v)->cap, sizeof(*(v)->at)))
#define vec_push(v, value) ({                                                    \
		__typeof__(*(v)->at) vec_value_ = (value);      /* may be one of v's */ \
		*vec_add(v) = vec_value_;                                       \
		(void)0;                                                        \
	})
#define vec_free(v) (vec_free_((void **)&(v)->at), (v)->len = (v)->cap = 0)

__attribute__((returns_nonnull)) void *vec_grow_(void **at, size_t *len, size_t *cap, size_t size);
void vec_free_(void **at);
