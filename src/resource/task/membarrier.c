/* SPDX-License-Identifier: Apache-2.0 */
/*
 * membarrier - which kinds of membarrier() the task has registered for.
 *
 * Seen in:  MEMBARRIER_CMD_GET_REGISTRATIONS (Linux 6.3), asked of the task.
 * Made by:  one registration each, while the vessel has one thread: with more
 *           the kernel waits for an RCU grace period, 5 to 15 ms.
 * Image:    tc.membarrier_registration_mask.
 */
#include <errno.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "resource/resource.h"

#define MEMBARRIER_GET  512             /* MEMBARRIER_CMD_GET_REGISTRATIONS */
#define REGISTRATIONS (MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED | \
		       MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE |                                \
		       MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ)

static int membarrier_see(const struct task_view *v, struct task *t, struct err *err)
{
	int64_t got;
	int r;

	if (!v->subject->open) {
		log_warn("the task can't be asked: taken to have no membarrier registrations");
		return 0;
	}
	r = view_ask(v->subject, SYS_membarrier, (uint64_t[6]){ MEMBARRIER_GET }, &got, err);
	if (r == 0 && got > 0)          /* an older kernel does not tell */
		t->membarrier = (uint32_t)got & REGISTRATIONS;
	return r;
}

static void membarrier_save(const struct task *t, CoreEntry *core)
{
	core->tc->has_membarrier_registration_mask = t->membarrier != 0;
	core->tc->membarrier_registration_mask = t->membarrier;
}

static int membarrier_load(const CoreEntry *core, struct task *t, struct err *err)
{
	uint32_t mask = core->tc->has_membarrier_registration_mask ? core->tc->membarrier_registration_mask : 0;

	if (mask & ~(uint32_t)REGISTRATIONS)
		return err_set(err, EBADMSG, "membarrier registrations %#x", mask);
	t->membarrier = mask;
	return 0;
}

static int membarrier_make(const struct task *t, struct vessel *v, struct err *err)
{
	(void)err;
	for (int i = 0; i < 32; i++)
		if (t->membarrier >> i & 1)
			script_call(&v->script, OP_WANT_ZERO, SYS_membarrier, 1u << i);
	return 0;
}

const struct task_kind membarrier_kind = {
	.name = "membarrier",
	.lost = "on kernels before 6.3",
	.stage = STAGE_ALONE,
	.see = membarrier_see,
	.save = membarrier_save,
	.load = membarrier_load,
	.make = membarrier_make,
};
