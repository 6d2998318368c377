/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/background.h"
#include "kernel/probe.h"

/* Threads that are started later are ordinary ones. */
static void go_first(struct background *b)
{
	b->policy = sched_getscheduler(0);
	sched_getparam(0, &b->param);
	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &(struct sched_param){ .sched_priority = 1 }) < 0)
		log_info("not allowed to go before other programs: the tasks may wait longer");
}

static int check_tree(const struct frozen_tree *tree, struct err *err)
{
	for (size_t i = 0; i < tree->tasks.len; i++)
		if (tree->tasks.at[i].stop_signal != 0)
			return err_set(err, EOPNOTSUPP, "task %d is stopped: there is nothing to be done in the background",
				       tree->tasks.at[i].pid);
	return 0;
}

static int arm(struct background *b, pid_t root, unsigned int timeout_s, struct err *err)
{
	uint64_t from = clock_us();
	struct frozen_tree tree;
	int r = freeze_tree(root, timeout_s, &tree, err);

	if (r < 0)
		return r;
	r = check_tree(&tree, err);
	if (r == 0)
		r = guard_arm(&b->guard, &tree, err);
	if (r == 0)
		r = escort_go(&b->escort, &tree, err);
	else
		freeze_release(&tree, false, &(struct err){ 0 });
	freeze_free(&tree);
	b->stood_us = clock_us() - from;
	return r;
}

static int check_kernel(struct err *err)
{
	struct kernel_features features;

	kernel_features_ask(false, &features);
	return features.pagemap_scan ? 0 :
		err_set(err, EOPNOTSUPP, "this kernel can't tell which pages are protected (PAGEMAP_SCAN, Linux 6.7)");
}

static int protect(void *guard, struct err *err)
{
	return guard_protect(guard, err);
}

int background_begin(struct background *b, pid_t root, unsigned int timeout_s, int dirfd, struct err *err)
{
	int r = check_kernel(err);

	if (r < 0)
		return r;
	*b = (struct background){ .begun = true };
	go_first(b);
	r = escort_begin(&b->escort, &b->guard, err);   /* first: all threads have to leave SIGCHLD to it */
	if (r == 0)
		r = guard_begin(&b->guard, dirfd, err);
	if (r == 0)
		r = arm(b, root, timeout_s, err);
	if (r == 0)
		r = escort_while(&b->escort, protect, &b->guard, err);
	return r;
}

int background_freeze(struct background *b, pid_t root, unsigned int timeout_s, struct frozen_tree *ret_tree,
		      struct err *err)
{
	return escort_freeze(&b->escort, root, timeout_s, ret_tree, err);
}

int background_hold(struct background *b, const struct frozen_tree *tree, struct err *err)
{
	return guard_hold(&b->guard, tree, err);
}

int background_run_on(struct background *b, struct frozen_tree *tree, const struct snapshot *s, struct err *err)
{
	int r = guard_held(&b->guard, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < s->tasks.len; i++) {
		struct guarded *t = guard_of(&b->guard, s->tasks.at[i].pid);

		if (t)
			t->brk = s->tasks.at[i].mm.brk;
	}
	return escort_go(&b->escort, tree, err);
}

struct rest { struct background *b; escort_work *work; void *arg; };

static int do_rest(void *arg, struct err *err)
{
	struct rest *rest = arg;
	int r = rest->work(rest->arg, err);

	guard_let_go(&rest->b->guard);
	return r;
}

int background_while(struct background *b, escort_work *work, void *arg, struct err *err)
{
	return escort_while(&b->escort, do_rest, &(struct rest){ b, work, arg }, err);
}

void background_end(struct background *b)
{
	if (!b->begun)
		return;
	b->begun = false;
	escort_free(&b->escort);
	guard_free(&b->guard);
	sched_setscheduler(0, b->policy, &b->param);
}
