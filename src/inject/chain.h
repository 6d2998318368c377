/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain.h - many questions in one go, by code that the program already has.
 *
 * Below the frame (question.h) lies a list of addresses: of "pop; ret" pieces
 * in the program's libc, of values for them, and of "syscall; ret".  A thread
 * that returns into it makes one call after another, stores each result, sends
 * itself a signal that nobody in the program handles, and returns through the
 * frame to what it was.  Its tracer sees the signal first and stops it there:
 * one stop for all questions instead of two for each.  When the tracer is dead
 * the signal is ignored by default, and the thread heals itself.  No code is
 * written, no memory is mapped.
 *
 * A descriptor that the tracer is to take needs a second stop: behind the first
 * one the chain closes it, by a number that it has itself put in its place.
 * So it is closed whether the tracer lives or not.
 *
 *	out       a slot a question: the result, then what the call wrote
 *	chain     ends at the frame's first word, which is the address of the last system call: rt_sigreturn
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/taddr.h"

#define CHAIN_QUESTIONS_MAX 16u
#define CHAIN_SLOT_BYTES    40u         /* u64 result, 32 bytes that the call may write */
/* words: ten a question, seven for the signal, three for the return */
#define CHAIN_BYTES         ((CHAIN_QUESTIONS_MAX * 10 + 10) * 8)
#define CHAIN_OUT_BYTES     (CHAIN_QUESTIONS_MAX * CHAIN_SLOT_BYTES)
#define CHAIN_UNANSWERED    0xa5a5a5a5a5a5a5a5ull

/* Pieces of code by which a chain works; all 0: the program lacks one. */
struct chain_gadgets {
	taddr pop_rax, pop_rdi, pop_rsi, pop_rdx;       /* each followed by ret */
	taddr store_rdi, store_rdx;             /* mov %rax, (%rdi); ret, or by %rdx: one of them will do */
	taddr syscall;                          /* syscall; ret */
};

/* Notes what ends in the ret at code[at] (addresses: code[0] is at `base`). */
void chain_note_gadget(struct chain_gadgets *g, const uint8_t *code, size_t at, taddr base);
int chain_is_complete(const struct chain_gadgets *g);

struct standing_question;

/*
 * Lays slots and chain into buf, which is for [out, frame + 8).  Returns the
 * address where the chain begins: the stack pointer to return with.
 */
taddr chain_lay(const struct chain_gadgets *g, const struct standing_question *q, size_t n, int64_t tid, int signal,
		taddr out, taddr frame, uint8_t *buf);

/* The same for a descriptor: the call that makes it, a stop, its close, a stop.  Slots: the descriptor, what close said. */
taddr chain_lay_fd(const struct chain_gadgets *g, uint64_t nr, uint64_t arg, int64_t tid, int signal, taddr out, taddr frame,
		   uint8_t *buf);
