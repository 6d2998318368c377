/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/own.h"
#include "front/report.h"

int work_dir_check(const struct options *options, struct err *err)
{
	bool same = strcmp(options->work_dir, options->images_dir) == 0;
	struct stat st;

	if (same || !(options->command_bit & (FOR_DUMP | FOR_PREDUMP | FOR_RESTORE | FOR_PAGE_SERVER)))
		return 0;
	if (stat(options->work_dir, &st) == 0 && !S_ISDIR(st.st_mode))
		errno = ENOTDIR;
	else if (access(options->work_dir, W_OK | X_OK) == 0)
		return 0;
	return err_sys(err, "work directory %s", options->work_dir);
}

int work_path(const struct options *options, const char *name, char *ret_path, size_t size, struct err *err)
{
	bool absolute = name[0] == '/';
	int n = snprintf(ret_path, size, "%s%s%s", absolute ? "" : options->work_dir, absolute ? "" : "/", name);

	return n < (int)size ? 0 : err_set(err, ENAMETOOLONG, "%s: this name is too long", name);
}

static enum log_level level_of(const struct options *options)
{
	return options->verbosity < LOG_DEBUG ? (enum log_level)options->verbosity : LOG_DEBUG;
}

static int open_log(const struct options *options, int *ret_fd, struct err *err)
{
	char path[PATH_MAX];
	int r = work_path(options, options->log_file, path, sizeof(path), err);

	if (r < 0)
		return r;
	/* A dump may make its directory: the log in it comes first. */
	if (options->command_bit & (FOR_DUMP | FOR_PREDUMP | FOR_PAGE_SERVER))
		(void)mkdir(options->images_dir, 0700);
	*ret_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? err_sys(err, "log file %s", path) : 0;
}

int report_open(const struct options *options, int *ret_log_fd, struct err *err)
{
	int fd = -1, r = 0;

	if (options->log_file)
		r = open_log(options, &fd, err);
	if (r < 0)
		return r;
	log_setup(fd < 0 ? STDERR_FILENO : fd, level_of(options));
	for (size_t i = 0; i < options->passed_over.len; i++)
		log_debug("--%s is passed over", options->passed_over.at[i]->name);
	*ret_log_fd = fd;
	return 0;
}

void report_error(const struct options *options, int log_fd, const struct err *err)
{
	const char *command = options->command_bit ? options->command : "", *colon = err->scope[0] ? ": " : "";
	const char *base = strrchr(err->file, '/') ? strrchr(err->file, '/') + 1 : err->file;

	if (options->verbosity < LOG_ERROR)
		return;
	if (log_fd >= 0)
		dprintf(log_fd, "Error (%s:%d) %s%s%s\n", base, err->line, err->scope, colon, err->text);
	dprintf(STDERR_FILENO, "ferry%s%s: Error: %s%s%s\n", command[0] ? " " : "", command, err->scope, colon, err->text);
}

void report_done(const struct options *options, const char *fmt, ...)
{
	char line[PATH_MAX + 500];
	bool shown = !options->log_file && log_on(LOG_INFO);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	log_info("%s", line);
	if (!shown && isatty(STDERR_FILENO))
		dprintf(STDERR_FILENO, "%s\n", line);
}
