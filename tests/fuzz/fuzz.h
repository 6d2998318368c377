/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz.h - targets of libFuzzer, and the input that they begin with.
 *
 *	fuzz_NAME.c   a target: takes any bytes, and comes back; sanitizers tell what went wrong
 *	seeds.c       writes good input of a target that knows some
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Good input number n: its size; 0: there is none with that number. */
size_t fuzz_good_input(unsigned int n, uint8_t *buf, size_t size);
