/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interp.c - runs a list of system calls in a task that has nothing else.
 *
 * Freestanding: no libc, no data, no relocations; it may lie at any address.
 * Started with the header in the first argument register; ends in a breakpoint,
 * which only a vessel may meet (its tracer waits for it).
 */
#include "inject/pie/op.h"

static inline int64_t call(uint64_t nr, const uint64_t *a)
{
	register uint64_t r10 __asm__("r10") = a[3];
	register uint64_t r8 __asm__("r8") = a[4];
	register uint64_t r9 __asm__("r9") = a[5];
	int64_t ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

static inline int wanted(const struct op *op, int64_t ret)
{
	if (op->want == OP_WANT_ZERO)
		return ret == 0;
	if (op->want == OP_WANT_OK)
		return (uint64_t)ret <= (uint64_t)-4096;
	return op->want == OP_WANT_ANY || (uint64_t)ret == op->value;
}

__attribute__((section(".text.entry"), used)) void interp_entry(struct op_header *h)
{
	const struct op *op = (const struct op *)(h + 1);

	for (; h->index < h->count; h->index++, op++) {
		int64_t ret = call(op->nr, op->arg);

		if (!wanted(op, ret)) {
			h->result = ret;
			break;
		}
	}
	for (;;)
		__asm__ volatile("int3");
}
