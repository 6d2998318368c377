/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mem.h - allocation that can't fail.
 *
 * A few kilobytes that can't be had end the program with status 1: the tasks
 * it holds are released by the kernel, unharmed.  Sizes that come from outside
 * (images, the wire) are limited where they are decoded, before they get here.
 */
#pragma once
#include <stddef.h>

__attribute__((returns_nonnull)) void *mem_new(size_t size);     /* zeroed */
__attribute__((returns_nonnull)) void *mem_dup(const void *from, size_t size);
__attribute__((returns_nonnull)) char *mem_str(const char *s);
__attribute__((returns_nonnull, format(printf, 1, 2))) char *mem_fmt(const char *fmt, ...);

__attribute__((noreturn)) void mem_out(void);     /* there is no memory left: says so, and ends the program */
