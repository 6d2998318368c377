/* SPDX-License-Identifier: Apache-2.0 */
#include <sys/resource.h>
#include <unistd.h>

#include "kernel/urgent.h"

#define STEP_BACK 10            /* a tenth of what a program gets that wants the same processor; never nothing */

void urgent_begin(struct urgent *u)
{
	const struct sched_param first = { .sched_priority = 1 };

	u->policy = sched_getscheduler(0);
	u->is = u->policy >= 0 && sched_getparam(0, &u->param) == 0 &&
		sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first) == 0;
}

void urgent_end(struct urgent *u)
{
	if (u->is)
		sched_setscheduler(0, u->policy, &u->param);
	u->is = false;
}

void not_urgent(void)
{
	setpriority(PRIO_PROCESS, (id_t)gettid(), STEP_BACK);
}
