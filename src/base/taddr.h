/* SPDX-License-Identifier: Apache-2.0 */
/* taddr.h - an address in a task: a number here, never followed. */
#pragma once
#include <stdint.h>

typedef uint64_t taddr;
