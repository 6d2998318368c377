/* SPDX-License-Identifier: Apache-2.0 */
/* common.c - what many kinds do in the same way: owners of files, questions. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/mem.h"
#include "resource/resource.h"

FownEntry *fown_save(const struct fown *f)
{
	FownEntry *rec = mem_new(sizeof(*rec));

	fown_entry__init(rec);
	rec->uid = f->uid;
	rec->euid = f->euid;
	rec->signum = f->signal;
	rec->pid_type = f->pid_type;
	rec->pid = (uint32_t)f->pid;
	return rec;
}

int fown_load(const FownEntry *rec, struct fown *ret_fown, struct err *err)
{
	if (!rec)
		return err_set(err, EBADMSG, "file record has no owner");
	if (rec->signum > SIGNALS || rec->pid_type > 2)
		return err_set(err, EBADMSG, "file owner has signal %u, type %u", rec->signum, rec->pid_type);
	*ret_fown = (struct fown){
		.uid = rec->uid, .euid = rec->euid, .signal = rec->signum,
		.pid_type = rec->pid_type, .pid = (pid_t)rec->pid,
	};
	return 0;
}

int view_ask(struct subject *s, uint64_t nr, const uint64_t arg[6], int64_t *ret_answer, struct err *err)
{
	struct question q = { .subject = s, .nr = nr };
	int r;

	memcpy(q.arg, arg, sizeof(q.arg));
	r = question_ask(&q, 1, err);
	if (r == 0)
		*ret_answer = q.answer;
	return r;
}
