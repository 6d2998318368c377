/* SPDX-License-Identifier: Apache-2.0 */
/*
 * signals: a parent and a child that never sleeps send each other numbered signals; each must come, once and in its
 * order.  SIGALRM goes off all the time beside.
 */
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "odd.h"

enum { PATIENCE_S = 10 };

static volatile sig_atomic_t alarms;
static int wanted;

static void on_alarm(int signal)
{
	(void)signal;
	alarms++;
}

static void on_number(int signal, siginfo_t *si, void *context)
{
	(void)context;
	if (si->si_value.sival_int != wanted)
		say("FAIL the child got a wrong number");
	wanted++;
	sigqueue(getppid(), signal + 1, si->si_value);
}

static void child(const sigset_t *old)
{
	const struct sigaction act = { .sa_sigaction = on_number, .sa_flags = SA_SIGINFO };

	MUST(sigaction(SIGRTMIN, &act, NULL) == 0);
	MUST(sigprocmask(SIG_SETMASK, old, NULL) == 0);
	for (volatile unsigned long n = 0;; n++)
		;
}

static void parent(pid_t pid)
{
	const struct timespec patience = { .tv_sec = PATIENCE_S };
	sigset_t answer;

	sigemptyset(&answer);
	sigaddset(&answer, SIGRTMIN + 1);
	for (int n = 0;; n++) {
		siginfo_t si;
		int r;

		MUST(sigqueue(pid, SIGRTMIN, (union sigval){ .sival_int = n }) == 0);
		do
			r = sigtimedwait(&answer, &si, &patience);
		while (r < 0 && errno == EINTR);
		MUST(r > 0);            /* else a signal was lost */
		MUST(si.si_value.sival_int == n);
	}
}

int main(void)
{
	const struct itimerval often = { { 0, 300 }, { 0, 300 } };
	const struct sigaction act = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	sigset_t both, old;
	pid_t pid;

	sigemptyset(&both);
	sigaddset(&both, SIGRTMIN);
	sigaddset(&both, SIGRTMIN + 1);
	MUST(sigprocmask(SIG_BLOCK, &both, &old) == 0);
	pid = fork();
	if (pid == 0)
		child(&old);
	MUST(sigaction(SIGALRM, &act, NULL) == 0);
	MUST(setitimer(ITIMER_REAL, &often, NULL) == 0);
	say("ready");
	parent(pid);
}
