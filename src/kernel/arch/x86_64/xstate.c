/* SPDX-License-Identifier: Apache-2.0 */
#include <cpuid.h>

#include "kernel/arch/x86_64/xstate.h"

#define COMPONENTS      63u

/*
 * What CPUID says.  It is read once, before main(): in a virtual machine each
 * CPUID costs 1.4 us, and every thread's registers need a dozen of them.
 */
static struct {
	uint64_t features;
	size_t size;
	struct { uint32_t offset, len; } place[COMPONENTS];
	uint32_t mxcsr_mask;
} machine;

static uint32_t read_mxcsr_mask(void)
{
	struct { uint8_t head[28]; uint32_t mask; uint8_t rest[480]; } __attribute__((aligned(16))) area = { 0 };

	__asm__ volatile("fxsave64 %0" : "+m"(area));
	return area.mask ? area.mask : 0xffbf;
}

__attribute__((constructor)) static void read_machine(void)
{
	uint32_t a, b, c, d;

	machine.mxcsr_mask = read_mxcsr_mask();
	machine.features = 1u << XSTATE_X87 | 1u << XSTATE_SSE;
	machine.size = XSTATE_LEGACY_BYTES;
	if (!__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
		return;
	machine.features = a | (uint64_t)d << 32;
	machine.size = b;
	for (unsigned int i = XSTATE_AVX; i < COMPONENTS; i++)
		if (machine.features >> i & 1) {
			__cpuid_count(0xd, i, a, b, c, d);
			machine.place[i].offset = b;
			machine.place[i].len = a;
		}
}

uint64_t xstate_features(void)
{
	return machine.features;
}

size_t xstate_size(void)
{
	return machine.size;
}

bool xstate_place(unsigned int component, size_t *ret_offset, size_t *ret_len)
{
	if (component >= COMPONENTS || machine.place[component].len == 0)
		return false;
	*ret_offset = machine.place[component].offset;
	*ret_len = machine.place[component].len;
	return true;
}

uint32_t xstate_mxcsr_mask(void)
{
	return machine.mxcsr_mask;
}
