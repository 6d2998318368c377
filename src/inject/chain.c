/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <sys/syscall.h>

#include "inject/chain.h"
#include "inject/question.h"

void chain_note_gadget(struct chain_gadgets *g, const uint8_t *code, size_t at, taddr base)
{
	if (at >= 1 && code[at - 1] == 0x58)
		g->pop_rax = base + at - 1;
	else if (at >= 1 && code[at - 1] == 0x5f)
		g->pop_rdi = base + at - 1;
	else if (at >= 1 && code[at - 1] == 0x5e)
		g->pop_rsi = base + at - 1;
	else if (at >= 1 && code[at - 1] == 0x5a)
		g->pop_rdx = base + at - 1;
	else if (at >= 3 && memcmp(code + at - 3, "\x48\x89\x07", 3) == 0)
		g->store_rdi = base + at - 3;
	else if (at >= 3 && memcmp(code + at - 3, "\x48\x89\x02", 3) == 0)
		g->store_rdx = base + at - 3;
	else if (at >= 2 && memcmp(code + at - 2, "\x0f\x05", 2) == 0)
		g->syscall = base + at - 2;
}

int chain_is_complete(const struct chain_gadgets *g)
{
	return g->pop_rax && g->pop_rdi && g->pop_rsi && g->syscall && (g->store_rdi || (g->store_rdx && g->pop_rdx));
}

struct words { uint64_t at[CHAIN_BYTES / 8]; size_t n; };

static void word(struct words *w, uint64_t value)
{
	w->at[w->n++] = value;
}

static void call(struct words *w, const struct chain_gadgets *g, uint64_t nr, uint64_t a, uint64_t b)
{
	word(w, g->pop_rax), word(w, nr);
	word(w, g->pop_rdi), word(w, a);
	word(w, g->pop_rsi), word(w, b);
	word(w, g->syscall);
}

static void store(struct words *w, const struct chain_gadgets *g, taddr to)
{
	word(w, g->store_rdi ? g->pop_rdi : g->pop_rdx), word(w, to);
	word(w, g->store_rdi ? g->store_rdi : g->store_rdx);
}

static void stop(struct words *w, const struct chain_gadgets *g, int64_t tid, int signal)
{
	call(w, g, SYS_tkill, (uint64_t)tid, (uint64_t)signal);
}

/* Up to the frame's first word: the stack pointer is then where sigreturn wants it. */
static taddr finish(struct words *w, const struct chain_gadgets *g, taddr frame)
{
	word(w, g->pop_rax), word(w, SYS_rt_sigreturn);
	word(w, g->syscall);
	return frame + 8 - w->n * 8;
}

static void copy(const struct words *w, taddr start, taddr out, uint8_t *buf)
{
	memcpy(buf + (start - out), w->at, w->n * 8);
}

static void clear(taddr out, taddr frame, size_t slots, uint8_t *buf)
{
	const uint64_t unanswered = CHAIN_UNANSWERED;

	memset(buf, 0, frame + 8 - out);
	for (size_t k = 0; k < slots; k++)
		memcpy(buf + k * CHAIN_SLOT_BYTES, &unanswered, sizeof(unanswered));
}

taddr chain_lay(const struct chain_gadgets *g, const struct standing_question *q, size_t n, int64_t tid, int signal,
		taddr out, taddr frame, uint8_t *buf)
{
	struct words w = { 0 };
	taddr start;

	clear(out, frame, n, buf);
	for (size_t k = 0; k < n; k++) {
		taddr slot = out + k * CHAIN_SLOT_BYTES;

		call(&w, g, q[k].nr, q[k].arg[0], q[k].out_arg == 1 ? slot + 8 : q[k].arg[1]);
		store(&w, g, slot);
	}
	stop(&w, g, tid, signal);
	start = finish(&w, g, frame);
	copy(&w, start, out, buf);
	return start;
}

taddr chain_lay_fd(const struct chain_gadgets *g, uint64_t nr, uint64_t arg, int64_t tid, int signal, taddr out, taddr frame,
		   uint8_t *buf)
{
	struct words w = { 0 };
	size_t where, to_fd;
	taddr start;

	clear(out, frame, 2, buf);
	call(&w, g, nr, arg, 0);
	where = w.n + 1;
	store(&w, g, 0);
	store(&w, g, out);
	stop(&w, g, tid, signal);
	to_fd = w.n + 3;                /* what is popped into rdi for close */
	call(&w, g, SYS_close, 0, 0);
	store(&w, g, out + CHAIN_SLOT_BYTES);
	stop(&w, g, tid, signal);
	start = finish(&w, g, frame);
	w.at[where] = start + to_fd * 8;
	copy(&w, start, out, buf);
	return start;
}
