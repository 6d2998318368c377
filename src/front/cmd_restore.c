/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/dump.h"
#include "engine/restore.h"
#include "front/command.h"
#include "front/progress_line.h"
#include "front/report.h"
#include "front/words.h"
#include "page/page.h"

/* ---- before ---- */

static int check_usage(const struct options *o, struct err *err)
{
	if (o->exec_cmd && o->operands.len == 0)
		return err_set(err, EINVAL, "--exec-cmd: which command? (-- COMMAND)");
	if (o->sibling && !o->detached)
		return err_set(err, EINVAL, "--restore-sibling goes with --restore-detached: nobody can wait for a sibling");
	if (o->then == DUMP_THEN_STOP)
		return err_set(err, EOPNOTSUPP, "--leave-stopped: a restore that leaves the tasks stopped is not handled yet");
	return 0;
}

/* Before any task exists: the pidfile can be made later. */
static int check_pidfile(const char *path, struct err *err)
{
	char dir[PATH_MAX];
	size_t dir_bytes = (size_t)(strrchr(path, '/') - path);
	struct stat st;

	if (lstat(path, &st) == 0)
		return err_set(err, EEXIST, "pidfile %s: exists already", path);
	snprintf(dir, sizeof(dir), "%.*s/", (int)dir_bytes, path);
	return access(dir, W_OK | X_OK) < 0 ? err_sys(err, "pidfile in %s", dir) : 0;
}

/* ---- after ---- */

static int write_pidfile(const char *path, pid_t pid, struct err *err)
{
	own_fd fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	int n = fd < 0 ? -1 : dprintf(fd, "%d", pid);

	return n < 0 ? err_sys(err, "pidfile %s", path) : 0;
}

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

static void tell(const struct options *options, const struct restore_result *r)
{
	char tasks[64], threads[64], count[64], size[16], spent[24];

	report_done(options, "restored %s, %s, %s (%s) from %s in %s; the root is %d", things_text(r->tasks, "task", tasks),
		    things_text(r->threads, "thread", threads), things_text(r->pages_restored, "page", count),
		    size_text(r->pages_restored * PAGE_BYTES, size), options->images_dir, time_text(r->total_us, spent),
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

static int go_on(const struct options *options, const char *pidfile, const struct restore_result *result, struct err *err)
{
	struct err ignored;

	if (options->pidfile && write_pidfile(pidfile, result->root, err) < 0) {
		tree_kill(result->root, &ignored);
		return -err->code;
	}
	tell(options, result);
	if (options->exec_cmd)
		return become(options->operands.at, err);
	return options->detached ? 0 : wait_for_root(result->root, err);
}

/* ---- the command ---- */

static int run(const struct options *options, struct restore_result *ret_result, struct err *err)
{
	struct progress_line line;
	int r = restore_run(&(struct restore_options){
		.images_dir = options->images_dir,
		.work_dir = options->work_dir,
		.sibling = options->sibling,
		.shell_job = options->shell_job,
		.check_only = options->dry_run,
		.progress = progress_line_begin(&line, "restoring", log_on(LOG_INFO) && !options->log_file),
	}, ret_result, err);

	progress_line_end(&line);
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
		r = check_pidfile(pidfile, err);
	if (r == 0)
		r = run(options, &result, err);
	if (r < 0)
		return r;
	if (!options->dry_run)
		return go_on(options, pidfile, &result, err);
	printf("The images of %s can be restored.\n", options->images_dir);
	return 0;
}
