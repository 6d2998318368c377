/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/freeze.h"
#include "engine/throttle.h"
#include "kernel/urgent.h"

#define PERIOD_US 40000u        /* shorter than what a user would call a stall, longer than a freeze takes */

static void sleep_us(unsigned int us)
{
	struct timespec t = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000l };

	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

/*
 * Ends when the root is gone, or is killed.  A task that does not stop in time (in a system call that can't be interrupted) holds up
 * all others meanwhile: as long as that took they have their turn.
 */
static void run(pid_t root, unsigned int level)
{
	unsigned int run_us = PERIOD_US >> level;
	struct urgent urgent;

	urgent_begin(&urgent);
	for (;;) {
		struct frozen_tree tree = { 0 };
		struct err err = { 0 };
		uint64_t from_us = clock_us();
		int r = freeze_tree_within(root, PERIOD_US, &tree, &err);

		if (r == 0) {
			sleep_us(PERIOD_US - run_us);
			(void)freeze_release(&tree, false, &err);
		}
		freeze_free(&tree);
		if (r == -ESRCH)
			return;
		sleep_us(r == 0 ? run_us : (unsigned int)(clock_us() - from_us));
	}
}

int throttle_begin(struct throttle *t, pid_t root, unsigned int level, struct err *err)
{
	pid_t ferry = getpid(), pid = fork();

	if (pid == 0) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == ferry)
			run(root, level);
		_exit(0);
	}
	if (pid < 0)
		return err_sys(err, "fork");
	t->pid = pid;
	return 0;
}

void throttle_end(struct throttle *t)
{
	if (t->pid == 0)
		return;
	(void)kill(t->pid, SIGKILL);
	while (waitpid(t->pid, NULL, 0) < 0 && errno == EINTR)
		;
	t->pid = 0;
}
