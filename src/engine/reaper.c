/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

#include "base/mem.h"
#include "engine/reaper.h"

#define PERIOD_NS 20000000

struct reaper {
	timer_t timer;
	struct sigaction before;
	const pid_t *volatile tids;
	volatile size_t count;
};

/* waitid() would take the stops of tracees too, so it looks first. */
void reap_if_dead(pid_t tid)
{
	siginfo_t si = { 0 };

	if (waitid(P_PID, (id_t)tid, &si, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 &&
	    (si.si_code == CLD_EXITED || si.si_code == CLD_KILLED || si.si_code == CLD_DUMPED))
		waitpid(tid, NULL, __WALL | WNOHANG);
}

static void on_time(int signal, siginfo_t *si, void *context)
{
	const struct reaper *r = si->si_value.sival_ptr;
	int saved = errno;

	(void)signal;
	(void)context;
	for (size_t i = 0; si->si_code == SI_TIMER && i < r->count; i++)
		reap_if_dead(r->tids[i]);
	errno = saved;
}

int reaper_start(struct reaper **ret_reaper, struct err *err)
{
	const struct itimerspec often = { { 0, PERIOD_NS }, { 0, PERIOD_NS } };
	const struct sigaction act = { .sa_sigaction = on_time, .sa_flags = SA_RESTART | SA_SIGINFO };
	struct reaper *r = mem_new(sizeof(*r));
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM, .sigev_value.sival_ptr = r };

	if (timer_create(CLOCK_MONOTONIC, &event, &r->timer) < 0) {
		free(r);
		return err_sys(err, "make a timer");
	}
	sigaction(SIGALRM, &act, &r->before);
	timer_settime(r->timer, 0, &often, NULL);
	*ret_reaper = r;
	return 0;
}

void reaper_look_at(struct reaper *r, const pid_t *tids, size_t count)
{
	r->count = 0;
	r->tids = tids;
	r->count = count;
}

void reaper_free(struct reaper *r)
{
	if (!r)
		return;
	r->count = 0;
	timer_delete(r->timer);
	sigaction(SIGALRM, &r->before, NULL);
	free(r);
}
