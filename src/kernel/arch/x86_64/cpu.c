/* SPDX-License-Identifier: Apache-2.0 */
#include <cpuid.h>
#include <stddef.h>

#include "kernel/arch/x86_64/cpu.h"

enum reg { EAX, EBX, ECX, EDX };

#define ALL_SETS(X)                                                                                                     \
	X(1, 0, ECX, 0, "sse3") X(1, 0, ECX, 1, "pclmulqdq") X(1, 0, ECX, 9, "ssse3") X(1, 0, ECX, 12, "fma")           \
	X(1, 0, ECX, 13, "cx16") X(1, 0, ECX, 19, "sse4.1") X(1, 0, ECX, 20, "sse4.2") X(1, 0, ECX, 22, "movbe")        \
	X(1, 0, ECX, 23, "popcnt") X(1, 0, ECX, 25, "aes") X(1, 0, ECX, 27, "xsave") X(1, 0, ECX, 28, "avx")            \
	X(1, 0, ECX, 29, "f16c") X(1, 0, ECX, 30, "rdrand")                                                             \
	X(7, 0, EBX, 0, "fsgsbase") X(7, 0, EBX, 3, "bmi1") X(7, 0, EBX, 5, "avx2") X(7, 0, EBX, 8, "bmi2")             \
	X(7, 0, EBX, 9, "erms") X(7, 0, EBX, 11, "rtm") X(7, 0, EBX, 16, "avx512f") X(7, 0, EBX, 17, "avx512dq")        \
	X(7, 0, EBX, 18, "rdseed") X(7, 0, EBX, 19, "adx") X(7, 0, EBX, 21, "avx512ifma") X(7, 0, EBX, 23, "clflushopt") \
	X(7, 0, EBX, 24, "clwb") X(7, 0, EBX, 28, "avx512cd") X(7, 0, EBX, 29, "sha") X(7, 0, EBX, 30, "avx512bw")      \
	X(7, 0, EBX, 31, "avx512vl")                                                                                    \
	X(7, 0, ECX, 1, "avx512vbmi") X(7, 0, ECX, 4, "pku") X(7, 0, ECX, 5, "waitpkg") X(7, 0, ECX, 6, "avx512vbmi2")  \
	X(7, 0, ECX, 8, "gfni") X(7, 0, ECX, 9, "vaes") X(7, 0, ECX, 10, "vpclmulqdq") X(7, 0, ECX, 11, "avx512vnni")   \
	X(7, 0, ECX, 12, "avx512bitalg") X(7, 0, ECX, 14, "avx512vpopcntdq") X(7, 0, ECX, 22, "rdpid")                  \
	X(7, 0, ECX, 27, "movdiri") X(7, 0, ECX, 28, "movdir64b")                                                       \
	X(7, 0, EDX, 4, "fsrm") X(7, 0, EDX, 22, "amx-bf16") X(7, 0, EDX, 23, "avx512fp16") X(7, 0, EDX, 24, "amx-tile") \
	X(7, 0, EDX, 25, "amx-int8")                                                                                    \
	X(7, 1, EAX, 4, "avx-vnni") X(7, 1, EAX, 5, "avx512bf16") X(7, 1, EAX, 23, "avx-ifma")                          \
	X(0x80000001, 0, ECX, 0, "lahf") X(0x80000001, 0, ECX, 5, "lzcnt") X(0x80000001, 0, ECX, 6, "sse4a")            \
	X(0x80000001, 0, ECX, 8, "prefetchw") X(0x80000001, 0, ECX, 16, "fma4") X(0x80000001, 0, EDX, 27, "rdtscp")     \
	X(0xd, 1, EAX, 0, "xsaveopt") X(0xd, 1, EAX, 1, "xsavec") X(0xd, 1, EAX, 2, "xgetbv1")

#define PLACE(leaf, sub, reg, bit, name) { leaf, sub, reg, bit },
#define NAME(leaf, sub, reg, bit, name)  name,

static const struct { uint32_t leaf, sub; enum reg reg; unsigned int bit; } places[] = { ALL_SETS(PLACE) };

const char *const cpu_set_names[] = { ALL_SETS(NAME) NULL };

_Static_assert(sizeof(places) / sizeof(*places) <= 64, "a bit each");

uint64_t cpu_sets(void)
{
	uint64_t sets = 0;

	for (unsigned int i = 0; i < sizeof(places) / sizeof(*places); i++) {
		uint32_t r[4];

		if (__get_cpuid_count(places[i].leaf, places[i].sub, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) &&
		    r[places[i].reg] >> places[i].bit & 1)
			sets |= 1ull << i;
	}
	return sets;
}
