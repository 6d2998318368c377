/* SPDX-License-Identifier: Apache-2.0 */
/* What a migration promises and decides, without any task: phases, convergence, which memory is still the same. */
#include <string.h>
#include <sys/mman.h>

#include "base/own.h"
#include "../cm.h"
#include "engine/common_mm.h"
#include "engine/converge.h"
#include "engine/phase.h"

/* ---- phases ---- */

static void never_two(void **state)
{
	(void)state;
	for (int p = 0; p < PHASE_COUNT; p++)
		assert_false(phase_rules[p].source_runs && phase_rules[p].target_runs);
}

/* From one phase to the next at most one side begins to run, and none while the other still may. */
static void no_handover_without_a_stop(void **state)
{
	(void)state;
	for (int p = 0; p < PHASE_COUNT; p++)
		for (int q = 0; q < PHASE_COUNT; q++)
			if (phase_may(p, q))
				assert_false((phase_rules[p].source_runs && phase_rules[q].target_runs) ||
					     (phase_rules[p].target_runs && phase_rules[q].source_runs));
}

static void abort_until_commit(void **state)
{
	(void)state;
	for (int p = PHASE_HELLO; p < PHASE_COMMIT; p++)
		assert_true(phase_may(p, PHASE_ABORT));
	for (int p = PHASE_COMMIT; p < PHASE_COUNT; p++)
		for (int q = 0; q < PHASE_COUNT; q++)
			assert_true(!phase_may(p, q) || (p == PHASE_COMMIT && q == PHASE_DONE));
}

/* Whoever gets to the commit has passed a stop in which the target said that it is ready. */
static void commit_only_when_ready(void **state)
{
	(void)state;
	for (int p = 0; p < PHASE_COUNT; p++)
		assert_int_equal(phase_may(p, PHASE_COMMIT), p == PHASE_READY);
	assert_true(phase_may(PHASE_READY, PHASE_STAGE));       /* what was staged could not follow */
	for (int p = 0; p < PHASE_COUNT; p++)
		assert_non_null(phase_rules[p].name);
}

/* ---- convergence ---- */

#define MB (1ull << 20)

static void converges(void **state)
{
	/* 1 MB in a millisecond is what the wire takes */
	static const struct {
		const char *what;
		struct converge_round rounds[5];
		unsigned int count;
		uint64_t spent_us, dirty;
		struct converge_goal goal;
		enum converge_verdict verdict;
		uint64_t downtime_us;
	} cases[] = {
		{ "nothing is dirty", { { 100 * MB, 100000 } }, 1, 100000, 0, { 10000, 30, 0, 2000, 3 }, CONVERGE_SWITCH, 2000 },
		{ "little enough", { { 100 * MB, 100000 } }, 1, 100000, 8 * MB, { 10000, 30, 0, 2000, 3 }, CONVERGE_SWITCH, 10000 },
		{ "just too much", { { 100 * MB, 100000 } }, 1, 100000, 9 * MB, { 10000, 30, 0, 2000, 3 }, CONVERGE_AGAIN, 11000 },
		{ "short rounds say nothing of the wire", { { 100 * MB, 100000 }, { 4096, 5000 } }, 2, 1, 8 * MB, { 10000, 30, 0, 2000, 3 },
		  CONVERGE_SWITCH, 10000 },
		{ "no round was long", { { 4096, 4096 } }, 1, 1, 4096, { 3000, 30, 0, 2000, 3 }, CONVERGE_AGAIN, 6096 },
		{ "nothing was sent at all", { { 0, 0 } }, 1, 0, 1000000, { 3000, 30, 0, 2000, 3 }, CONVERGE_SWITCH, 3000 },
		{ "no round is left", { { 100 * MB, 100000 } }, 1, 1, 50 * MB, { 10000, 1, 0, 2000, 3 }, CONVERGE_STUCK, 52000 },
		{ "no time is left", { { 100 * MB, 100000 } }, 1, 500, 50 * MB, { 10000, 30, 500, 2000, 3 }, CONVERGE_STUCK, 52000 },
		{ "there is time yet", { { 100 * MB, 100000 } }, 1, 499, 50 * MB, { 10000, 30, 500, 2000, 3 }, CONVERGE_AGAIN, 52000 },
		{ "no limit at all", { { 100 * MB, 100000 } }, 1, ~0ull, 50 * MB, { 10000, 0, 0, 2000, 3 }, CONVERGE_AGAIN, 52000 },
		{ "no round helps", { { 100 * MB, 100000 } }, 1, 1, 0, { 1000, 30, 0, 2000, 3 }, CONVERGE_STUCK, 2000 },
		{ "it shrinks", { { 100 * MB, 100000 }, { 50 * MB, 50000 }, { 25 * MB, 25000 }, { 12 * MB, 12000 } }, 4, 1, 12 * MB,
		  { 10000, 30, 0, 2000, 3 }, CONVERGE_AGAIN, 14000 },
		{ "twice the same", { { 100 * MB, 100000 }, { 50 * MB, 50000 }, { 50 * MB, 50000 } }, 3, 1, 50 * MB,
		  { 10000, 30, 0, 2000, 3 }, CONVERGE_AGAIN, 52000 },
		{ "three times the same", { { 50 * MB, 50000 }, { 50 * MB, 50000 }, { 46 * MB, 46000 } }, 3, 1, 42 * MB,
		  { 10000, 30, 0, 2000, 3 }, CONVERGE_STUCK, 44000 },
		{ "once the same, and that is enough", { { 50 * MB, 50000 } }, 1, 1, 50 * MB, { 10000, 30, 0, 2000, 1 },
		  CONVERGE_STUCK, 52000 },
		{ "it shrinks a little now", { { 50 * MB, 50000 }, { 50 * MB, 50000 } }, 2, 1, 44 * MB, { 10000, 30, 0, 2000, 1 },
		  CONVERGE_AGAIN, 46000 },
		{ "the same, and little enough", { { 2 * MB, 2000 }, { 2 * MB, 2000 }, { 2 * MB, 2000 }, { 2 * MB, 2000 } }, 4, 1, 2 * MB,
		  { 10000, 30, 0, 2000, 3 }, CONVERGE_SWITCH, 4000 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint64_t downtime_us = 0;
		enum converge_verdict verdict = converge(cases[i].rounds, cases[i].count, cases[i].spent_us, cases[i].dirty, &cases[i].goal,
							 &downtime_us);

		if (verdict != cases[i].verdict || downtime_us != cases[i].downtime_us)
			fail_msg("%s: %d, %llu us", cases[i].what, verdict, (unsigned long long)downtime_us);
	}
}

/* ---- common memory ---- */

#define ANON(from, to, rights) { .start = from, .end = to, .prot = rights, .flags = MAP_PRIVATE | MAP_ANONYMOUS, \
				 .status = VMA_REGULAR | VMA_ANON_PRIVATE }
#define RW (PROT_READ | PROT_WRITE)

static void common_of(const struct vma *was, size_t were, const struct vma *is, size_t are, struct taddr_ranges *out)
{
	struct snapshot old = { 0 }, now = { 0 };
	struct task before = { 0 }, after = { 0 };

	for (size_t i = 0; i < were; i++)
		vec_push(&before.mm.vmas, was[i]);
	for (size_t i = 0; i < are; i++)
		vec_push(&after.mm.vmas, is[i]);
	out->len = 0;
	common_mm(&old, &before, &now, &after, out);
	vec_free(&before.mm.vmas);
	vec_free(&after.mm.vmas);
}

static void same_memory(void **state)
{
	static const struct vma one[] = { ANON(0x1000, 0x9000, RW) }, cut[] = { ANON(0x1000, 0x3000, RW), ANON(0x5000, 0xa000, RW) },
				split[] = { ANON(0x1000, 0x3000, RW), ANON(0x3000, 0x5000, PROT_READ), ANON(0x5000, 0x9000, RW) },
				shared[] = { { .start = 0x1000, .end = 0x9000, .prot = RW, .flags = MAP_SHARED,
					       .status = VMA_REGULAR | VMA_ANON_SHARED } },
				file[] = { { .start = 0x1000, .end = 0x9000, .prot = RW, .flags = MAP_PRIVATE,
					     .status = VMA_REGULAR | VMA_FILE_PRIVATE, .object = 77 } };
	struct taddr_ranges out = { 0 };

	(void)state;
	common_of(one, 1, one, 1, &out);
	assert_true(out.len == 1 && out.at[0].start == 0x1000 && out.at[0].end == 0x9000);
	common_of(one, 1, cut, 2, &out);
	assert_true(out.len == 2 && out.at[0].end == 0x3000 && out.at[1].start == 0x5000 && out.at[1].end == 0x9000);
	common_of(one, 1, split, 3, &out);
	assert_true(out.len == 2 && out.at[0].end == 0x3000 && out.at[1].start == 0x5000);
	common_of(one, 1, shared, 1, &out);
	assert_int_equal(out.len, 0);
	common_of(shared, 1, shared, 1, &out);
	assert_int_equal(out.len, 0);
	common_of(file, 1, file, 1, &out);      /* of a file that nobody knows */
	assert_int_equal(out.len, 0);
	common_of(one, 0, one, 1, &out);
	assert_int_equal(out.len, 0);
	vec_free(&out);
}

/* Both ends ask; the answer does not depend on who. */
static void both_ways(void **state)
{
	struct taddr_ranges there = { 0 }, back = { 0 };

	(void)state;
	for (unsigned int seed = 0; seed < 2000; seed++) {
		struct vma a[8], b[8];
		size_t n[2] = { 0 };
		unsigned int bits = seed * 2654435761u;

		for (int side = 0; side < 2; side++)
			for (taddr at = 0x1000; n[side] < 8 && at < 0x20000; bits = bits * 1103515245u + 12345u) {
				taddr end = at + 0x1000 * (1 + (bits >> 16) % 5);

				(side ? b : a)[n[side]++] = (struct vma)ANON(at, end, (bits >> 20) % 3 ? RW : PROT_READ);
				at = end + 0x1000 * ((bits >> 24) % 3);
			}
		common_of(a, n[0], b, n[1], &there);
		common_of(b, n[1], a, n[0], &back);
		assert_int_equal(there.len, back.len);
		assert_true(there.len == 0 || memcmp(there.at, back.at, there.len * sizeof(*there.at)) == 0);
		for (size_t i = 1; i < there.len; i++)
			assert_true(there.at[i - 1].end <= there.at[i].start);
	}
	vec_free(&there);
	vec_free(&back);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(never_two), cmocka_unit_test(no_handover_without_a_stop), cmocka_unit_test(abort_until_commit),
		cmocka_unit_test(commit_only_when_ready), cmocka_unit_test(converges),
		cmocka_unit_test(same_memory), cmocka_unit_test(both_ways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
