/* SPDX-License-Identifier: Apache-2.0 */
/* see_ns.c - a task or thread in namespaces of its own can't be dumped yet: it must be in ours. */
#include <errno.h>
#include <unistd.h>

#include "engine/see.h"

/*
 * The links in /proc/PID/ns, which of ours each must be, and whether a thread may differ from its task in it: who
 * leaves the mount namespace or gets a time namespace stops sharing more than that first (CLONE_FS, the memory).
 */
static const struct { const char *name, *own; bool by_thread; } spaces[OWN_NS_COUNT] = {
	{ "pid", "pid", false },       { "pid_for_children", "pid", true }, { "mnt", "mnt", false },
	{ "net", "net", true },        { "ipc", "ipc", true },              { "uts", "uts", true },
	{ "user", "user", false },     { "cgroup", "cgroup", false },       { "time", "time", false },
	{ "time_for_children", "time", false },
};

/* What our kernel has not is not there for both. */
static int id_of(pid_t tid, const char *name, struct ns_id *ret_id, struct err *err)
{
	int r = proc_ns_id(tid, name, &ret_id->dev, &ret_id->ino, err);

	if (r == -ENOENT)
		*ret_id = (struct ns_id){ 0 };
	return r == -ENOENT ? 0 : r;
}

static int know_own(struct seeing *s, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && !s->own_ns_known && i < OWN_NS_COUNT; i++)
		r = id_of(getpid(), spaces[i].own, &s->own_ns[i], err);
	s->own_ns_known = r == 0;
	return r;
}

int see_namespaces(struct seeing *s, pid_t tid, bool is_thread, struct err *err)
{
	int r = know_own(s, err);

	for (size_t i = 0; r == 0 && i < OWN_NS_COUNT; i++) {
		const struct ns_id *own = &s->own_ns[i];
		struct ns_id id;

		if (is_thread && !spaces[i].by_thread)
			continue;
		r = id_of(tid, spaces[i].name, &id, err);
		if (r == 0 && (id.dev != own->dev || id.ino != own->ino))
			return err_set(err, EOPNOTSUPP, "it is in another %s namespace than we: not handled yet",
				       spaces[i].name);
	}
	return r;
}
