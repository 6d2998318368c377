/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/page_server.h"
#include "front/command.h"
#include "front/pidfile.h"
#include "front/progress_report.h"
#include "front/report.h"
#include "front/wire.h"
#include "front/words.h"

static void tell(const struct options *options, const struct page_server_result *r)
{
	char pages[64], size[16], maps[64], spent[24], given[64];
	double us = r->spent_us > 0 ? (double)r->spent_us : 1;

	report_done(options, "stored %s (%s) of %s in %s, in %s (%.2f GB/s); %s given up in older directories",
		    things_text(r->pages, "page", pages), size_text(r->pages * PAGE_BYTES, size),
		    things_text(r->pagemaps, "pagemap", maps), options->images_dir, time_text(r->spent_us, spent),
		    (double)r->pages * PAGE_BYTES / us / 1e3, things_text(r->given_up, "page", given));
}

static int serve(struct page_server *server, const struct options *options, struct progress_report *progress, struct err *err)
{
	struct page_server_result result;
	int r = page_server_serve(server, &result, err);

	progress_report_end(progress, r >= 0);
	if (r == 0)
		tell(options, &result);
	return r;
}

/* Which port it is, where the kernel chose one; to the log always. */
static int announce(const struct options *options, const struct page_server *server, struct err *err)
{
	const char *host = options->address ? options->address : "127.0.0.1";

	if (server->port == 0)
		return 0;
	log_info("listening on %s, port %u", host, server->port);
	if (options->port != 0)
		return 0;
	printf("listening on %s, port %u\n", host, server->port);
	return fflush(stdout) == 0 ? 0 : err_sys(err, "standard output");
}

static int say_ready(const struct options *options, struct err *err)
{
	if (options->status_fd < 0)
		return 0;
	if (write(options->status_fd, "", 1) != 1)
		return err_sys(err, "--status-fd %d", options->status_fd);
	close(options->status_fd);
	return 0;
}

static void leave_terminal(void)
{
	own_fd null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	for (int fd = STDIN_FILENO; null >= 0 && fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
}

/* What others wait for: the pid of who serves, then that it does. */
static int tell_ready(const struct options *options, const char *pidfile, pid_t pid, struct err *err)
{
	int r = options->pidfile ? pidfile_write(pidfile, pid, err) : 0;

	return r < 0 ? r : say_ready(options, err);
}

/* 0: the server is ready, and serves in a process of its own. */
static int serve_behind(struct page_server *server, const struct options *options, struct progress_report *progress,
			const char *pidfile, struct err *err)
{
	pid_t pid = fork();
	int r;

	if (pid < 0)
		return err_sys(err, "fork");
	if (pid == 0) {
		leave_terminal();
		if (options->status_fd > STDERR_FILENO)
			close(options->status_fd);
		return serve(server, options, progress, err);
	}
	r = tell_ready(options, pidfile, pid, err);
	if (r < 0)
		kill(pid, SIGKILL);
	return r;
}

static int check_usage(const struct options *options, char *ret_pidfile, struct err *err)
{
	int r = 0;

	if (options->status_fd >= 0 && fcntl(options->status_fd, F_GETFD) < 0)
		return err_sys(err, "--status-fd %d", options->status_fd);
	if (options->port > 65535)
		return err_set(err, EINVAL, "--port %d: there are 65535", options->port);
	if (options->pidfile)
		r = work_path(options, options->pidfile, ret_pidfile, PATH_MAX, err);
	return r == 0 && options->pidfile ? pidfile_check(ret_pidfile, err) : r;
}

static int run(struct page_server *server, const struct options *options, struct progress_report *progress,
	       const char *pidfile, struct err *err)
{
	int r = announce(options, server, err);

	if (r < 0)
		return r;
	if (options->daemon)
		return serve_behind(server, options, progress, pidfile, err);
	r = tell_ready(options, pidfile, getpid(), err);
	return r < 0 ? r : serve(server, options, progress, err);
}

int cmd_page_server(const struct options *options, struct err *err)
{
	char pidfile[PATH_MAX] = "";
	struct progress_report progress;
	struct page_server server;
	struct wire_options wire;
	int r = check_usage(options, pidfile, err);

	if (r < 0)
		return r;
	wire_options(options, &wire);
	r = page_server_listen(&server, &(struct page_server_options){
		.images_dir = options->images_dir, .parent_dir = options->prev_images_dir, .address = wire.address,
		.allow_plaintext = options->allow_plaintext, .auto_dedup = options->auto_dedup,
		.progress = progress_report_begin(&progress, options, "receiving"),
	}, err);
	if (r == 0)
		r = run(&server, options, &progress, pidfile, err);
	page_server_free(&server);
	return r;
}
