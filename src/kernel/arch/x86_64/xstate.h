/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xstate.h - where this processor keeps what in an XSAVE area of standard form.
 *
 * The area: 512 bytes as FXSAVE lays them, a header of 64 (which components are
 * not in their initial state), then the components at offsets that CPUID tells.
 * ptrace takes and gives exactly xstate_size() bytes.
 */
#pragma once
#include <cpuid.h>
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
static inline uint64_t xstate_features(void)
{
	uint32_t a, b, c, d;

	if (!__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
		return 1u << XSTATE_X87 | 1u << XSTATE_SSE;
	return a | (uint64_t)d << 32;
}

static inline size_t xstate_size(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid_count(0xd, 0, &a, &b, &c, &d) ? b : XSTATE_LEGACY_BYTES;
}

/* Place of a component over the legacy part.  False: this processor has it not. */
static inline bool xstate_place(unsigned int component, size_t *ret_offset, size_t *ret_len)
{
	uint32_t a, b, c, d;

	if (!(xstate_features() >> component & 1) || !__get_cpuid_count(0xd, component, &a, &b, &c, &d))
		return false;
	*ret_offset = b;
	*ret_len = a;
	return true;
}

/* The bits of MXCSR that may be set; others fault. */
static inline uint32_t xstate_mxcsr_mask(void)
{
	struct { uint8_t head[28]; uint32_t mask; uint8_t rest[480]; } __attribute__((aligned(16))) area = { 0 };

	__asm__ volatile("fxsave64 %0" : "+m"(area));
	return area.mask ? area.mask : 0xffbf;
}
