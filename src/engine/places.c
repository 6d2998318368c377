/* SPDX-License-Identifier: Apache-2.0 */
/*
 * places.c - can every task be made in its session?
 *
 * What make_tree.c can't do is found here, by the same rules: before a dump
 * ends anything, and before a restore makes anything.
 */
#include <errno.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/places.h"

struct place {
	pid_t born_sid;                 /* the session that its early children were left in */
	pid_t stand_in_of;              /* 0, or the session of which a stand-in is its child */
};

static bool leads(const struct task *t)
{
	return t->sid == t->pid;
}

static struct place *place_of(const struct snapshot *s, struct place *places, pid_t pid)
{
	return &places[snapshot_task(s, pid) - s->tasks.at];
}

/* By whom a task is cloned that its parent can't leave in its session: a brother that leads it, or a stand-in that is a brother. */
static int check_stranger(const struct snapshot *s, struct place *places, const struct task *t, struct err *err)
{
	const struct task *leader = snapshot_task(s, t->sid);

	if (leader && leader->ppid == t->ppid)
		return 0;
	for (size_t i = 0; !leader && i < s->tasks.len; i++)
		if (places[i].stand_in_of == t->sid && s->tasks.at[i].pid != t->ppid)
			leader = &s->tasks.at[i];
	if (leader)
		return err_set(err, EOPNOTSUPP, "it belongs to session %d, whose leader is no brother of it: not handled yet",
			       t->sid);
	place_of(s, places, t->ppid)->stand_in_of = t->sid;
	return 0;
}

int check_places(const struct snapshot *s, struct err *err)
{
	own_free struct place *places = mem_new(s->tasks.len * sizeof(*places));
	int r = 0;

	places[0].born_sid = leads(&s->tasks.at[0]) ? 0 : s->tasks.at[0].sid;
	for (size_t i = 1; r == 0 && i < s->tasks.len; i++) {
		const struct task *t = &s->tasks.at[i], *parent = snapshot_task(s, t->ppid);
		const struct place *above = place_of(s, places, t->ppid);

		LOG_SCOPE("task %d", t->pid);
		places[i].born_sid = leads(t) ? parent->sid : t->sid;
		if (!leads(t) && t->sid != parent->sid && t->sid != above->born_sid)
			r = check_stranger(s, places, t, err);
	}
	return r;
}
