/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values that live in registers for a while, so that a program notices when one
 * was not brought back. Each function fills every register of its kind, spins,
 * and returns 0 when all were as they should be.
 */
#ifndef FERRY_TESTS_VICTIM_REGISTERS_H
#define FERRY_TESTS_VICTIM_REGISTERS_H

#include <stdint.h>
#include <stdio.h>

/* Twelve registers, all but rcx, r8 and the stack's two: the Nth gets N times a constant, then one more each turn. */
#define EACH_GENERAL(X) X(rax, 1) X(rbx, 2) X(rdx, 3) X(rsi, 4) X(rdi, 5) X(r9, 6) X(r10, 7) X(r11, 8) X(r12, 9) X(r13, 10) X(r14, 11) X(r15, 12)
#define GENERAL_LOAD(reg, n) "mov $" #n " * 0x1234567, %%" #reg "\n\t"
#define GENERAL_STEP(reg, n) "lea 1(%%" #reg "), %%" #reg "\n\t"
#define GENERAL_STORE(reg, n) "mov %%" #reg ", 8 * " #n " - 8(%%r8)\n\t"
#define GENERAL_CLOBBER(reg, n) #reg,

static __attribute__((noinline)) int registers_spin_general(uint64_t turns)
{
	uint64_t got[12];
	int wrong = 0;
	uint64_t left = turns;
	register uint64_t *to __asm__("r8") = got;

	__asm__ volatile(EACH_GENERAL(GENERAL_LOAD)
			 "1:\n\t" EACH_GENERAL(GENERAL_STEP)
			 "dec %%rcx\n\t"
			 "jnz 1b\n\t" EACH_GENERAL(GENERAL_STORE)
			 : "+c"(left), "+r"(to)
			 :
			 : EACH_GENERAL(GENERAL_CLOBBER) "cc", "memory");
	for (uint64_t i = 0; i < 12; i++)
		wrong += got[i] != (i + 1) * 0x1234567 + turns;
	return wrong + (left != 0);
}

#define EACH_LOW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define EACH_HIGH(X) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#define XMM_LOAD(n) "movups 16 * " #n "(%1), %%xmm" #n "\n\t"
#define XMM_STORE(n) "movups %%xmm" #n ", 16 * " #n "(%2)\n\t"
#define ZMM_LOAD(n) "vmovups 64 * " #n "(%2), %%zmm" #n "\n\t"
#define ZMM_STORE(n) "vmovups %%zmm" #n ", 64 * " #n "(%3)\n\t"
#define XMM_CLOBBER(n) "xmm" #n,
#define REGISTERS_SPIN "1: dec %0\n\tjnz 1b\n\t"

static __attribute__((noinline)) void registers_hold_xmm(uint64_t turns, const void *from, void *to)
{
	__asm__ volatile(EACH_LOW(XMM_LOAD) REGISTERS_SPIN EACH_LOW(XMM_STORE)
			 : "+r"(turns)
			 : "r"(from), "r"(to)
			 : EACH_LOW(XMM_CLOBBER) "cc", "memory");
}

/* All 32 of AVX-512, in full width, and a mask register. */
static __attribute__((noinline, target("avx512f"))) int registers_hold_zmm(uint64_t turns, const void *from, void *to)
{
	const uint32_t mask = 0xa5c3;
	uint32_t mask_after;

	__asm__ volatile("kmovw %4, %%k3\n\t" EACH_LOW(ZMM_LOAD) EACH_HIGH(ZMM_LOAD) REGISTERS_SPIN EACH_LOW(ZMM_STORE) EACH_HIGH(ZMM_STORE)
			 "kmovw %%k3, %1\n\t"
			 : "+r"(turns), "=&r"(mask_after)
			 : "r"(from), "r"(to), "r"(mask)
			 : EACH_LOW(XMM_CLOBBER) EACH_HIGH(XMM_CLOBBER) "k3", "cc", "memory");
	return mask_after == mask;
}
#undef REGISTERS_SPIN

static int registers_spin_vector(uint64_t turns)
{
	unsigned char from[32 * 64], to[32 * 64] = { 0 };
	const int wide = __builtin_cpu_supports("avx512f") != 0;
	const size_t bytes = wide ? sizeof(from) : 16 * 16;

	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = (unsigned char)(i * 31 + i / 64);
	if (!wide)
		registers_hold_xmm(turns, from, to);
	else if (!registers_hold_zmm(turns, from, to))
		return dprintf(2, "the mask register changed\n");
	for (size_t i = 0; i < bytes; i++)
		if (from[i] != to[i])
			return dprintf(2, "byte %zu of vector register %zu: %02x became %02x\n", i % (bytes > 256 ? 64 : 16),
				       i / (bytes > 256 ? 64 : 16), from[i], to[i]);
	return 0;
}

#endif
