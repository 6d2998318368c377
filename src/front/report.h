/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.h - where words go.
 *
 *	log       a file of -o, or stderr; there from the start, whatever happens then
 *	error     once, at the end: to stderr for people, to the log file for programs ("Error ...")
 *	done      what was done, in one line: to a terminal, and as information to the log
 */
#pragma once
#include "base/err.h"
#include "front/options.h"

/* Opens the log.  *ret_log_fd: the file's, or -1 when stderr is the log; stays open as long as anything is logged. */
int report_open(const struct options *options, int *ret_log_fd, struct err *err);

/* log_fd: -1 for none */
void report_error(const struct options *options, int log_fd, const struct err *err);

void report_done(const struct options *options, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A directory of -W that nothing can be written to is told before anything is done. */
int work_dir_check(const struct options *options, struct err *err);

/* A name of -o or --pidfile: as it is, or in the work directory.  ENAMETOOLONG. */
int work_path(const struct options *options, const char *name, char *ret_path, size_t size, struct err *err);
