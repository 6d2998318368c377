/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xstate.h - where this processor keeps what in an XSAVE area of standard form.
 *
 * The area: 512 bytes as FXSAVE lays them, a header of 64 (which components are
 * not in their initial state), then the components at offsets that CPUID tells.
 * ptrace takes and gives exactly xstate_size() bytes, whatever the task uses.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XSTATE_HEADER           512u            /* u64: components in use; the rest 0 */
#define XSTATE_LEGACY_BYTES     576u            /* legacy part and header */
#define XSTATE_SOFTWARE         464u            /* 48 bytes in which the kernel notes what it wants */

enum {
	XSTATE_X87, XSTATE_SSE, XSTATE_AVX, XSTATE_BNDREGS, XSTATE_BNDCSR, XSTATE_OPMASK, XSTATE_ZMM_HI256,
	XSTATE_HI16_ZMM, XSTATE_PKRU = 9, XSTATE_TILE_CONFIG = 17, XSTATE_TILE_DATA = 18,
};

/* All components that this processor has and the kernel lets tasks use, a bit each. */
uint64_t xstate_features(void);
size_t xstate_size(void);
/* Place of a component over the legacy part.  False: this processor has it not. */
bool xstate_place(unsigned int component, size_t *ret_offset, size_t *ret_len);
/* The bits of MXCSR that may be set; others fault. */
uint32_t xstate_mxcsr_mask(void);
