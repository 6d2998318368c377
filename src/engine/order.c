/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/order.h"

enum when when_to_clone(const struct task *t, const struct task *parent, pid_t born_sid)
{
	if (t->sid == t->pid || t->sid == parent->sid)
		return AFTER_SETSID;
	return t->sid == born_sid ? BEFORE_SETSID : BY_OTHER;
}

static void add_subtree(const struct snapshot *s, size_t index, pid_t born_sid, struct task_order *out);

static void add_children(const struct snapshot *s, size_t index, enum when when, pid_t born_sid, pid_t sid,
			 struct task_order *out)
{
	const struct task *parent = &s->tasks.at[index];

	for (size_t i = index + 1; i < s->tasks.len; i++) {
		const struct task *t = &s->tasks.at[i];

		if (t->ppid == parent->pid && when_to_clone(t, parent, born_sid) == when)
			add_subtree(s, i, when == BY_OTHER ? t->sid : sid, out);
	}
}

/* As make_subtree() of make_tree.c goes. */
static void add_subtree(const struct snapshot *s, size_t index, pid_t born_sid, struct task_order *out)
{
	const struct task *t = &s->tasks.at[index];

	vec_push(out, index);
	if (t->state == TASK_ZOMBIE)
		return;
	if (t->sid == t->pid && born_sid != t->pid)
		add_children(s, index, BEFORE_SETSID, born_sid, born_sid, out);
	else
		born_sid = t->sid;
	add_children(s, index, AFTER_SETSID, born_sid, t->sid, out);
	add_children(s, index, BY_OTHER, born_sid, 0, out);
}

void tree_order(const struct snapshot *s, struct task_order *ret)
{
	const struct task *root = s->tasks.len > 0 ? &s->tasks.at[0] : NULL;

	*ret = (struct task_order){ 0 };
	if (root)
		add_subtree(s, 0, root->sid == root->pid ? 0 : root->sid, ret);
}
