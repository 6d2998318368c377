/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.h - the instruction sets that a program may have found here, and may use on. */
#pragma once
#include <stdint.h>

extern const char *const cpu_set_names[];       /* by bit, at most 64; ends with NULL */

uint64_t cpu_sets(void);
