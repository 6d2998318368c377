/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - ferry COMMAND [OPTION...]
 *
 * Exit status: 0 done; 1 not done, and why is on stderr and in the log;
 * restore in the foreground: that of the root task.
 *
 * No signal that ends ferry is caught: whoever ends it ends a dump, and the
 * kernel lets go of the tasks; or a restore, and the kernel ends what is half
 * made.  A file that reaches its limit, or a log that nobody reads any more,
 * is an error of that write and no death.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/own.h"
#include "engine/keeper.h"
#include "front/command.h"
#include "front/help.h"
#include "front/progress_report.h"
#include "front/report.h"

/* Without a command: help that was asked for, or the same as an error. */
static int run_none(const struct options *options)
{
	if (options->version)
		puts("Version: " FERRY_VERSION);
	else if (options->list)
		help_list(stdout);
	else
		help_print(options->help ? stdout : stderr, NULL);
	return options->version || options->list || options->help ? 0 : 1;
}

static int run(const struct options *options, int *ret_log_fd, struct err *err)
{
	const struct command *command = options->command ? command_find(options->command) : NULL;
	int r;

	if (!command || options->version || options->list)
		return run_none(options);
	if (options->help) {
		help_print(stdout, command);
		return 0;
	}
	r = work_dir_check(options, err);
	if (r == 0)
		r = progress_report_check(options, err);
	if (r == 0)
		r = report_open(options, ret_log_fd, err);
	return r < 0 ? r : command->run(options, err);
}

static int flush(struct err *err)
{
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : err_sys(err, "standard output");
}

static void hint(const struct options *options)
{
	bool known = options->command_bit;

	fprintf(stderr, "Try: ferry%s%s --help\n", known ? " " : "", known ? options->command : "");
}

static void let_it_fail(int signal)
{
	(void)signal;
}

/*
 * Not ignored: that would be inherited by what ferry runs.  Who started ferry may have ignored SIGCHLD, which ends
 * children without a word, or blocked SIGALRM, which the reaper needs.
 */
static void take_signals(const struct options *options)
{
	const struct sigaction act = { .sa_handler = let_it_fail, .sa_flags = SA_RESTART };
	sigset_t needed;

	sigaction(SIGXFSZ, &act, NULL);
	sigaction(SIGPIPE, &act, NULL);
	if (options->command_bit & (FOR_DUMP | FOR_PREDUMP | FOR_MIGRATE)) {
		sigaction(SIGTSTP, &act, NULL);         /* a program may stand still: it would until somebody says fg */
		sigaction(SIGTTIN, &act, NULL);         /* for rsync's ssh, which wants a password in the background */
	}
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&needed);
	sigaddset(&needed, SIGALRM);
	sigprocmask(SIG_UNBLOCK, &needed, NULL);
}

/* Each link of a chain takes descriptors for each task; what is restored has limits of its own. */
static void allow_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

/*
 * A file that is opened must not become one of these: a stream would be written into a log.  What stands in for one
 * that is closed fails like it.
 */
static void hold_standard_descriptors(void)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
			return;
}

static int command_main(int argc, char **argv)
{
	struct options options;
	struct err err = { 0 };
	int log_fd = -1;
	int r = options_parse(argc, argv, &options, &err);
	bool parsed = r == 0;

	hold_standard_descriptors();
	take_signals(&options);
	allow_descriptors();
	if (r == 0)
		r = run(&options, &log_fd, &err);
	if (r >= 0 && flush(&err) < 0)
		r = -err.code;
	if (r < 0)
		report_error(&options, log_fd, &err);
	if (r == -EINVAL && !parsed)
		hint(&options);
	options_free(&options);
	own_fd_drop(&log_fd);
	return r < 0 ? 1 : r;
}

int main(int argc, char **argv)
{
	if (argc > 0 && strcmp(argv[0], KEEPER_NAME) == 0)
		return keeper_main();
	return command_main(argc, argv);
}
