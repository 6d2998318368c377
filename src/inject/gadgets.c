/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "base/mem.h"
#include "base/own.h"
#include "inject/gadgets.h"

#define GADGET_BYTES 9u         /* the longest: a sigreturn */

/* Where the sigreturn begins whose last byte is the k-th; SIZE_MAX: there is none. */
static size_t sigreturn_to(const uint8_t *b, size_t k)
{
	static const uint8_t long_form[] = { 0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05 };
	static const uint8_t short_form[] = { 0xb8, 15, 0, 0, 0, 0x0f, 0x05 };

	if (k >= 8 && memcmp(b + k - 8, long_form, sizeof(long_form)) == 0)
		return k - 8;
	return k >= 6 && memcmp(b + k - 6, short_form, sizeof(short_form)) == 0 ? k - 6 : SIZE_MAX;
}

static void note_syscall(struct gadgets *g, const uint8_t *code, size_t k, taddr base)
{
	size_t start;

	if (k < 1 || code[k - 1] != 0x0f)
		return;
	if (!g->syscall)
		g->syscall = base + k - 1;
	start = sigreturn_to(code, k);
	if (!g->sigreturn && start != SIZE_MAX)
		g->sigreturn = base + start;
}

static bool has_all(const struct gadgets *g, bool chain)
{
	return g->syscall && g->sigreturn && (!chain || chain_is_complete(&g->chain));
}

/* Looks through one executable mapping, a piece at a time; pieces overlap by what may begin in one and end in the next. */
static void search(pid_t pid, const struct proc_map *m, bool chain, struct gadgets *g)
{
	enum { PIECE = 256 * 1024, TAIL = 9 };
	own_free uint8_t *buf = mem_new(PIECE + TAIL);

	for (taddr at = m->start; at < m->end && !has_all(g, chain); at += PIECE) {
		size_t want = m->end - at < PIECE + TAIL ? m->end - at : PIECE + TAIL;
		struct iovec here = { buf, want }, there = { (void *)(uintptr_t)at, want };
		ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
		const uint8_t *last = buf + (got > 0 ? got : 0);

		for (const uint8_t *p = buf; p < last && (p = memchr(p, 0x05, (size_t)(last - p))); p++)
			note_syscall(g, buf, (size_t)(p - buf), at);
		for (const uint8_t *p = buf; chain && p < last && (p = memchr(p, 0xc3, (size_t)(last - p))); p++)
			chain_note_gadget(&g->chain, buf, (size_t)(p - buf), at);
	}
}

int gadgets_find(pid_t pid, const struct proc_maps *maps, struct gadgets *ret_gadgets, struct err *err)
{
	struct gadgets g = { 0 };

	/* libc is the likeliest place: look there first, and nowhere else for chains */
	for (int round = 0; round < 2; round++)
		for (size_t i = 0; i < maps->len && !has_all(&g, round == 0); i++) {
			const struct proc_map *m = &maps->at[i];
			bool libc = strstr(m->name, "/libc.so") || strstr(m->name, "/libc-") || strstr(m->name, "/ld-musl");

			if ((m->prot & (PROT_EXEC | PROT_READ)) == (PROT_EXEC | PROT_READ) && libc == (round == 0) &&
			    strcmp(m->name, "[vsyscall]") != 0)
				search(pid, m, round == 0, &g);
		}
	if (!g.syscall || !g.sigreturn)
		return err_set(err, ENOENT, "the program has no rt_sigreturn in its code");
	*ret_gadgets = g;
	return 0;
}

/* The bytes at each address must be what they were where they were found: text can be changed. */
bool gadgets_moved(pid_t pid, const struct gadgets *from, uint64_t shift, struct gadgets *ret_gadgets)
{
	struct gadgets g = *from, again = { 0 };
	taddr *const at[] = { &g.syscall, &g.sigreturn, &g.chain.pop_rax, &g.chain.pop_rdi, &g.chain.pop_rsi, &g.chain.pop_rdx,
			      &g.chain.store_rdi, &g.chain.store_rdx, &g.chain.syscall };
	uint8_t code[ARRAY_LEN(at)][GADGET_BYTES];
	struct iovec here = { code, sizeof(code) }, there[ARRAY_LEN(at)];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(at); i++)
		if (*at[i]) {
			*at[i] += shift;
			there[n++] = (struct iovec){ (void *)(uintptr_t)*at[i], GADGET_BYTES };
		}
	if (process_vm_readv(pid, &here, 1, there, n, 0) != (ssize_t)(n * GADGET_BYTES))
		return false;
	for (size_t i = 0, k = 0; i < ARRAY_LEN(at); i++) {
		if (!*at[i])
			continue;
		if (at[i] == &g.sigreturn && sigreturn_to(code[k], 8) != 0 && sigreturn_to(code[k], 6) != 0)
			return false;
		for (size_t ret = 1; ret < 4; ret++)
			if (code[k][ret] == 0xc3)
				chain_note_gadget(&again.chain, code[k], ret, *at[i]);
		k++;
	}
	again.syscall = code[0][0] == 0x0f && code[0][1] == 0x05 ? g.syscall : 0;
	if (again.syscall != g.syscall || (chain_is_complete(&g.chain) && !chain_is_complete(&again.chain)))
		return false;
	g.chain = again.chain;
	*ret_gadgets = g;
	return true;
}

/* Ignored by default: nothing happens when such a signal comes and nobody traces. */
int gadgets_choose_signal(const struct gadgets *g, uint64_t caught, uint64_t pending)
{
	static const int signals[] = { SIGWINCH, SIGURG };

	for (size_t i = 0; chain_is_complete(&g->chain) && i < ARRAY_LEN(signals); i++)
		if (!((caught | pending) >> (signals[i] - 1) & 1))
			return signals[i];
	return 0;
}
