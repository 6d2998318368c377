/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/dedup.h"
#include "engine/dump.h"
#include "engine/restore.h"
#include "front/command.h"
#include "front/pidfile.h"
#include "front/progress_report.h"
#include "front/report.h"
#include "front/stream.h"
#include "front/words.h"
#include "page/page.h"

/* ---- before ---- */

static int check_usage(const struct options *o, struct err *err)
{
	if (o->exec_cmd && o->operands.len == 0)
		return err_set(err, EINVAL, "--exec-cmd: which command? (-- COMMAND)");
	if (o->sibling && !o->detached)
		return err_set(err, EINVAL, "--restore-sibling goes with --restore-detached: nobody can wait for a sibling");
	if (o->stream && o->auto_dedup)
		return err_set(err, EINVAL, "--auto-dedup: a stream leaves nothing to give up");
	if (o->then == DUMP_THEN_STOP)
		return err_set(err, EOPNOTSUPP, "--leave-stopped: a restore that leaves the tasks stopped is not handled yet");
	if (o->no_verify && o->auto_dedup)
		return err_set(err, EINVAL, "--auto-dedup would give up the images, and --no-verify restores what may be broken: "
			       "not both");
	return 0;
}

/* ---- after ---- */

static void print_stats(const struct restore_result *r)
{
	printf("Restore:\n"
	       "  tasks              %u\n"
	       "  threads            %u\n"
	       "  making tasks       %" PRIu64 " us\n"
	       "  all                %" PRIu64 " us\n"
	       "  pages restored     %" PRIu64 "\n"
	       "  pages compared     %" PRIu64 "\n"
	       "  pages left shared  %" PRIu64 "\n",
	       r->tasks, r->threads, r->forking_us, r->total_us, r->pages_restored, r->pages_compared, r->pages_shared);
}

static const char *source_of(const struct options *options)
{
	return options->stream ? "a stream" : options->images_dir;
}

static void tell(const struct options *options, const struct restore_result *r)
{
	char tasks[64], threads[64], count[64], size[16], spent[24];

	report_done(options, "restored %s, %s, %s (%s) from %s in %s; the root is %d", things_text(r->tasks, "task", tasks),
		    things_text(r->threads, "thread", threads), things_text(r->pages_restored, "page", count),
		    size_text(r->pages_restored * PAGE_BYTES, size), source_of(options), time_text(r->total_us, spent),
		    r->root);
	if (options->display_stats)
		print_stats(r);
	fflush(stdout);
}

/*
 * A root in our own process group (-j) gets the terminal's Ctrl-C as we do,
 * and it is the root that says what comes of it.
 */
static int wait_for_root(pid_t root, struct err *err)
{
	int status;

	if (getpgid(root) == getpgrp()) {
		signal(SIGINT, SIG_IGN);
		signal(SIGQUIT, SIG_IGN);
	}
	while (waitpid(root, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, "wait for process %d", root);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int become(char **argv, struct err *err)
{
	execvp(argv[0], argv);
	return err_sys(err, "--exec-cmd %s", argv[0]);
}

/* What was restored runs, and nothing takes that back: pages that stay are told, and no error. */
static void consume(const struct options *options)
{
	struct dedup_result given;
	struct err err;

	if (dedup_consume(options->images_dir, &given, &err) < 0)
		log_warn("pages stay in %s: %s", options->images_dir, err.text);
	else
		log_info("%llu pages given up: %s can't be restored again", (unsigned long long)given.pages, options->images_dir);
}

static int go_on(const struct options *options, const char *pidfile, const struct restore_result *result, struct err *err)
{
	struct err ignored;

	if (options->pidfile && pidfile_write(pidfile, result->root, err) < 0) {
		tree_kill(result->root, &ignored);
		return -err->code;
	}
	if (options->auto_dedup)
		consume(options);
	tell(options, result);
	if (options->exec_cmd)
		return become(options->operands.at, err);
	return options->detached ? 0 : wait_for_root(result->root, err);
}

/* ---- the command ---- */

static int run(const struct options *options, struct restore_result *ret_result, struct err *err)
{
	struct progress_report progress;
	own_fd stream = -1;
	int r = options->stream ? stream_open_input("-", &stream, err) : 0;

	if (r < 0)
		return r;
	r = restore_run(&(struct restore_options){
		.images_dir = options->stream ? NULL : options->images_dir,
		.stream_fd = stream,
		.work_dir = stream_work_dir(options),
		.sibling = options->sibling,
		.shell_job = options->shell_job,
		.unchecked = options->no_verify,
		.check_only = options->dry_run,
		.progress = progress_report_begin(&progress, options, "restoring"),
	}, ret_result, err);

	progress_report_end(&progress, r >= 0);
	return r;
}

int cmd_restore(const struct options *options, struct err *err)
{
	struct restore_result result = { 0 };
	char pidfile[PATH_MAX] = "";
	int r = check_usage(options, err);

	if (r == 0 && options->pidfile)
		r = work_path(options, options->pidfile, pidfile, sizeof(pidfile), err);
	if (r == 0 && options->pidfile)
		r = pidfile_check(pidfile, err);
	if (r == 0)
		r = run(options, &result, err);
	if (r < 0)
		return r;
	if (!options->dry_run)
		return go_on(options, pidfile, &result, err);
	printf("The images of %s can be restored.\n", source_of(options));
	return 0;
}
