/* SPDX-License-Identifier: Apache-2.0 */
/* common.c - what many kinds do in the same way: owners of files, questions. */
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "base/mem.h"
#include "base/own.h"
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

/*
 * What the kinds ask of every thread, and of every task.  They need not be here to be asked: what is, is asked of
 * the whole tree at once, before the kinds see.
 */
const struct standing_question thread_questions[] = {
	{ SYS_sigaltstack, { 0 }, 1 },
	{ SYS_prctl, { 40 /* PR_GET_TID_ADDRESS */ }, 1 },
	{ SYS_prctl, { PR_GET_SECUREBITS }, 0 },
	{ SYS_prctl, { PR_GET_PDEATHSIG }, 1 },
};
const size_t thread_question_count = ARRAY_LEN(thread_questions);

const struct standing_question task_questions[] = {
	{ SYS_brk, { 0 }, 0 },
	{ SYS_getitimer, { ITIMER_REAL }, 1 },
	{ SYS_getitimer, { ITIMER_VIRTUAL }, 1 },
	{ SYS_getitimer, { ITIMER_PROF }, 1 },
	{ SYS_prctl, { PR_GET_DUMPABLE }, 0 },
	{ SYS_prctl, { PR_GET_CHILD_SUBREAPER }, 1 },
	{ SYS_arch_prctl, { 0x1022 /* ARCH_GET_XCOMP_PERM */ }, 1 },
	{ SYS_membarrier, { 512 /* MEMBARRIER_CMD_GET_REGISTRATIONS */ }, 0 },
};
const size_t task_question_count = ARRAY_LEN(task_questions);

int view_ask(struct subject *s, uint64_t nr, const uint64_t arg[6], int64_t *ret_answer, struct err *err)
{
	return question_ask_one(s, nr, arg, ret_answer, err);
}
