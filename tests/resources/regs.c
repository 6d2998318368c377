/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registers. Two threads load every register with a pattern of the round and
 * hold it, one spinning in user mode, one asleep in a futex wait, until the
 * tester asks; then the registers are stored and compared.
 */
#include <asm/prctl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>

#include "res.h"

enum { SSE, AVX, AVX512 };
enum { RAX, RBX, RCX, RDX, RSI, RBP, R8, R9, R10, R11, R12, R13, R14, R15, GPRS };
#define FLAG_DF (1u << 10)
#define FLAG_AC (1u << 18)	/* and not ID (1 << 21): neither ptrace nor sigreturn sets that */
#define MXCSR 0x7fa0u	/* round to zero, inexact seen, all masked */
#define FPU_CW 0x0e7fu	/* round up, double precision */

/* What hold_registers() loads and stores; offsets are used in the code below. */
struct bank {
	uint64_t gpr[GPRS];		/* 0 */
	uint64_t k[8];			/* 112 */
	uint64_t flags;			/* 176 */
	uint32_t mxcsr, fpu_cw;		/* 184, 188 */
	uint8_t st[8][16];		/* 192 */
	uint8_t zmm[32][64];		/* 320 */
};

struct hold {
	uint32_t go;		/* 0: a futex: stay */
	uint32_t held;		/* 4: set when all is loaded */
	uint32_t level;		/* 8: SSE, AVX, AVX512 */
	uint32_t sleeps;	/* 12: hold in a futex wait */
	uint64_t pad[6];
	struct bank in;		/* 64 */
	struct bank out;	/* 2432 */
};
_Static_assert(offsetof(struct bank, zmm) == 320 && sizeof(struct bank) == 2368, "offsets below");
_Static_assert(offsetof(struct hold, in) == 64 && offsetof(struct hold, out) == 2432, "offsets below");

void hold_registers(struct hold *h);

__asm__(
	".text\n"
	".set IN, 64\n.set OUT, 2432\n"
	".macro each_gpr op\n"
	"	\\op 0, rax\n	\\op 1, rbx\n	\\op 2, rcx\n	\\op 3, rdx\n	\\op 4, rsi\n	\\op 5, rbp\n	\\op 6, r8\n"
	"	\\op 7, r9\n	\\op 8, r10\n	\\op 9, r11\n	\\op 10, r12\n	\\op 11, r13\n	\\op 12, r14\n	\\op 13, r15\n"
	".endm\n"
	".macro load_gpr i, reg\n	mov IN+8*\\i(%rdi), %\\reg\n.endm\n"
	".macro store_gpr i, reg\n	mov %\\reg, OUT+8*\\i(%rdi)\n.endm\n"
	"hold_registers:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	fninit\n	fldcw IN+188(%rdi)\n"
	"	.irp i,7,6,5,4,3,2,1,0\n	fldt IN+192+16*\\i(%rdi)\n	.endr\n"
	"	cmpl $1, 8(%rdi)\n	je 1f\n	ja 2f\n"
	"	.irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n	movdqu IN+320+64*\\i(%rdi), %xmm\\i\n	.endr\n	jmp 3f\n"
	"1:	.irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n	vmovdqu IN+320+64*\\i(%rdi), %ymm\\i\n	.endr\n	jmp 3f\n"
	"2:	.irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"	vmovdqu64 IN+320+64*\\i(%rdi), %zmm\\i\n	.endr\n"
	"	.irp i,0,1,2,3,4,5,6,7\n	kmovq IN+112+8*\\i(%rdi), %k\\i\n	.endr\n"
	"3:	ldmxcsr IN+184(%rdi)\n"
	"	pushq IN+176(%rdi)\n	popfq\n"
	"	each_gpr load_gpr\n"
	"	cmpl $0, 12(%rdi)\n	movl $1, 4(%rdi)\n	jne 5f\n"
	"4:	pause\n	cmpl $0, (%rdi)\n	je 4b\n	jmp 6f\n"
	"5:	mov $202, %eax\n	syscall\n	cmpl $0, (%rdi)\n	je 5b\n"	/* futex(go, FUTEX_WAIT, 0, NULL): the pattern has it so */
	"6:	each_gpr store_gpr\n"
	"	pushfq\n	popq OUT+176(%rdi)\n	pushq $0x202\n	popfq\n"
	"	stmxcsr OUT+184(%rdi)\n	fnstcw OUT+188(%rdi)\n"
	"	.irp i,0,1,2,3,4,5,6,7\n	fstpt OUT+192+16*\\i(%rdi)\n	.endr\n	fninit\n"
	"	cmpl $1, 8(%rdi)\n	je 7f\n	ja 8f\n"
	"	.irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n	movdqu %xmm\\i, OUT+320+64*\\i(%rdi)\n	.endr\n	jmp 9f\n"
	"7:	.irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n	vmovdqu %ymm\\i, OUT+320+64*\\i(%rdi)\n	.endr\n	vzeroupper\n	jmp 9f\n"
	"8:	.irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"	vmovdqu64 %zmm\\i, OUT+320+64*\\i(%rdi)\n	.endr\n"
	"	.irp i,0,1,2,3,4,5,6,7\n	kmovq %k\\i, OUT+112+8*\\i(%rdi)\n	.endr\n	vzeroupper\n"
	"9:	movl $0x1f80, -8(%rsp)\n	ldmxcsr -8(%rsp)\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n	ret\n");

struct holder {
	struct hold h;
	struct res *r;
	pid_t tid;
	uint64_t gs_area[2];
	uint32_t pkru;
	bool has_pkru;
} __attribute__((aligned(64)));

static uint32_t pkru_get(void)
{
	uint32_t eax, edx;

	__asm__ volatile("rdpkru" : "=a"(eax), "=d"(edx) : "c"(0));
	return eax;
}

static void pkru_set(uint32_t value)
{
	__asm__ volatile("wrpkru" :: "a"(value), "c"(0), "d"(0));
}

static void bank_fill(struct holder *t, uint64_t seed)
{
	struct bank *in = &t->h.in;

	memset(&t->h.out, 0, sizeof(t->h.out));
	res_fill(in, sizeof(*in), seed);
	in->flags = 0x202 | FLAG_DF | FLAG_AC;
	in->mxcsr = MXCSR;
	in->fpu_cw = FPU_CW;
	for (int i = 0; i < 8; i++) {	/* normal numbers, so that no load changes them */
		memset(in->st[i] + 10, 0, 6);
		in->st[i][7] |= 0x80;
		in->st[i][8] = i;
		in->st[i][9] = 0x40;
	}
	if (t->h.sleeps)
		in->gpr[RSI] = FUTEX_WAIT, in->gpr[RDX] = 0, in->gpr[R10] = 0;
}

static void bank_check(struct holder *t)
{
	static const char *const names[GPRS] = { "rax", "rbx", "rcx", "rdx", "rsi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
	static const size_t width[] = { 16, 32, 64 };
	const char *how = t->h.sleeps ? "asleep" : "spinning";
	const struct bank *in = &t->h.in, *out = &t->h.out;

	for (int i = 0; i < GPRS; i++)
		if (!t->h.sleeps || (i != RAX && i != RCX && i != R11))
			WANT_EQ(t->r, out->gpr[i], in->gpr[i], "%s: %s", how, names[i]);
	WANT(t->r, !t->h.sleeps || out->gpr[RAX] == 0, "%s: futex wait returned %ld", how, (long)out->gpr[RAX]);
	WANT_EQ(t->r, out->flags & (FLAG_DF | FLAG_AC), FLAG_DF | FLAG_AC, "%s: flags", how);
	WANT_EQ(t->r, out->mxcsr, in->mxcsr, "%s: mxcsr", how);
	WANT_EQ(t->r, out->fpu_cw & 0xffff, in->fpu_cw, "%s: x87 control word", how);
	for (int i = 0; i < 8; i++)
		WANT(t->r, memcmp(out->st[i], in->st[i], 10) == 0, "%s: st%d", how, i);
	for (int i = 0; i < (t->h.level == AVX512 ? 32 : 16); i++)
		WANT(t->r, memcmp(out->zmm[i], in->zmm[i], width[t->h.level]) == 0, "%s: vector register %d", how, i);
	for (int i = 0; i < 8 && t->h.level == AVX512; i++)
		WANT_EQ(t->r, out->k[i], in->k[i], "%s: k%d", how, i);
}

static void *holder_run(void *arg)
{
	struct holder *t = arg;
	uint64_t fs, fs_now, gs_now, word;

	t->tid = gettid();
	t->gs_area[1] = res_word(31, t->h.sleeps);
	MUST(t->r, syscall(SYS_arch_prctl, ARCH_SET_GS, t->gs_area) == 0);
	MUST(t->r, syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0);
	if (t->has_pkru)
		pkru_set(t->pkru);
	for (int round = 0;; round++) {
		bank_fill(t, 41 + round * 2 + t->h.sleeps);
		hold_registers(&t->h);
		bank_check(t);
		syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_now);
		syscall(SYS_arch_prctl, ARCH_GET_GS, &gs_now);
		__asm__ volatile("mov %%gs:8, %0" : "=r"(word));
		WANT_EQ(t->r, fs_now, fs, "fs base");
		WANT_EQ(t->r, gs_now, (uint64_t)t->gs_area, "gs base");
		WANT_EQ(t->r, word, t->gs_area[1], "word at gs:8");
		WANT(t->r, !t->has_pkru || pkru_get() == t->pkru, "pkru: wanted %#x, found %#x", t->pkru, pkru_get());
		__atomic_store_n(&t->h.held, 0, __ATOMIC_SEQ_CST);
		__atomic_store_n(&t->h.go, 0, __ATOMIC_SEQ_CST);	/* main waits for this, and for held */
	}
	return NULL;
}

static void wait_held(struct holder *t)
{
	while (__atomic_load_n(&t->h.go, __ATOMIC_SEQ_CST) || !__atomic_load_n(&t->h.held, __ATOMIC_SEQ_CST))
		sched_yield();
	if (t->h.sleeps)
		WANT(t->r, res_sleeps_in(t->tid, SYS_futex), "thread does not sleep");
}

int main(int argc, char **argv)
{
	static struct holder threads[2];
	struct res r = res_start(argc, argv);
	int key = pkey_alloc(0, 0);
	pthread_t id;

	for (int i = 0; i < 2; i++) {
		struct holder *t = &threads[i];

		t->h.level = __builtin_cpu_supports("avx512bw") ? AVX512 : __builtin_cpu_supports("avx") ? AVX : SSE;
		t->h.sleeps = i;
		t->r = &r;
		t->has_pkru = key >= 0;
		t->pkru = 0x55555550 ^ (i ? 0x40000000 : 0x04000000);
		MUST(&r, pthread_create(&id, NULL, holder_run, t) == 0);
		wait_held(t);
	}
	if (key >= 0)
		pkey_free(key);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		for (int i = 0; i < 2; i++) {
			wait_held(&threads[i]);	/* back asleep after a restore: else the wait would find the new value at once */
			__atomic_store_n(&threads[i].h.go, 1, __ATOMIC_SEQ_CST);
			syscall(SYS_futex, &threads[i].h.go, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
		}
		for (int i = 0; i < 2; i++)
			wait_held(&threads[i]);
		res_done(&r);
	}
}
