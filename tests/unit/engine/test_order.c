/* SPDX-License-Identifier: Apache-2.0 */
/* test_order.c - trees, and in which order their tasks are made: as make_tree.c does it, by hand. */
#include <stdio.h>
#include <string.h>

#include "../cm.h"
#include "base/own.h"
#include "engine/order.h"

struct row { pid_t pid, ppid, sid; bool dead; };

static const struct {
	const char *what;
	struct row tasks[10];
	pid_t want[10];
} trees[] = {
	{ "nobody", { { 0 } }, { 0 } },
	{ "one", { { 1, 0, 1 } }, { 1 } },
	{ "a family in one session", { { 1, 0, 1 }, { 2, 1, 1 }, { 3, 1, 1 }, { 4, 2, 1 }, { 5, 4, 1 } }, { 1, 2, 4, 5, 3 } },
	{ "a job: the root leads no session", { { 2, 0, 1 }, { 3, 2, 1 }, { 4, 3, 1 } }, { 2, 3, 4 } },
	{ "children that lead", { { 1, 0, 1 }, { 2, 1, 2 }, { 3, 2, 2 }, { 4, 1, 4 } }, { 1, 2, 3, 4 } },
	{ "a child from before its parent's setsid", { { 1, 0, 1 }, { 2, 1, 2 }, { 3, 2, 2 }, { 4, 2, 1 } }, { 1, 2, 4, 3 } },
	{ "with a family of its own",
	  { { 1, 0, 1 }, { 2, 1, 2 }, { 3, 2, 2 }, { 4, 2, 1 }, { 5, 4, 5 }, { 6, 4, 1 } }, { 1, 2, 4, 5, 6, 3 } },
	{ "two generations that left",
	  { { 1, 0, 1 }, { 2, 1, 2 }, { 3, 2, 3 }, { 4, 3, 2 }, { 5, 2, 1 }, { 6, 3, 3 } }, { 1, 2, 5, 3, 4, 6 } },
	{ "a brother's session", { { 1, 0, 1 }, { 2, 1, 4 }, { 3, 1, 1 }, { 4, 1, 4 } }, { 1, 3, 4, 2 } },
	{ "a session whose leader is gone", { { 1, 0, 1 }, { 2, 1, 9 }, { 3, 2, 9 }, { 4, 1, 1 } }, { 1, 4, 2, 3 } },
	{ "the dead have no children", { { 1, 0, 1 }, { 2, 1, 2, true }, { 3, 1, 1, true }, { 4, 1, 1 } }, { 1, 2, 3, 4 } },
};

static void orders(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(trees); i++) {
		struct snapshot s = { 0 };
		struct task_order order;

		for (const struct row *row = trees[i].tasks; row->pid; row++) {
			struct task *t = vec_add(&s.tasks);

			t->pid = row->pid;
			t->ppid = row->ppid;
			t->sid = row->sid;
			t->state = row->dead ? TASK_ZOMBIE : t->state;
		}
		tree_order(&s, &order);
		if (order.len != s.tasks.len)
			fail_msg("%s: %zu of %zu tasks", trees[i].what, order.len, s.tasks.len);
		for (size_t k = 0; k < order.len; k++)
			if (s.tasks.at[order.at[k]].pid != trees[i].want[k])
				fail_msg("%s: %d comes at place %zu", trees[i].what, s.tasks.at[order.at[k]].pid, k);
		vec_free(&order);
		snapshot_free(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(orders) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
