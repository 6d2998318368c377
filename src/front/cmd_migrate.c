/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/dump.h"
#include "engine/migrate.h"
#include "front/command.h"
#include "front/migrate_report.h"
#include "front/reach.h"
#include "front/report.h"
#include "front/stream.h"
#include "front/sync.h"
#include "front/words.h"
#include "page/page.h"
#include "wire/frame.h"

#define NAP_MS       20u
#define SSH_ENDS_MS  2000u      /* by itself, then asked to */

static void tell_phase(void *arg, enum phase phase)
{
	(void)arg;
	log_info("%s", phase_rules[phase].name);
}

/* ---- migrate ---- */

static void print_result(const struct options *options, const char *where, const struct migrate_result *r)
{
	char tasks[64], size[16], total[24], down[24];

	report_done(options, "%s %s to %s in %s: %s in %u rounds, down for %s", options->dry_run ? "could move" : "moved",
		    things_text(r->tasks, "task", tasks), where, time_text(r->total_us, total), size_text(r->bytes, size), r->rounds,
		    time_text(r->downtime_us, down));
	printf("total     %10.3f ms\n"
	       "rounds    %10u\n"
	       "sent      %10" PRIu64 " bytes\n"
	       "pages     %10" PRIu64 "\n"
	       "downtime  %10.3f ms\n"
	       "  freeze  %10.3f ms\n"
	       "  state   %10.3f ms\n"
	       "  last    %10.3f ms\n"
	       "  restore %10.3f ms\n"
	       "  go      %10.3f ms\n",
	       (double)r->total_us / 1e3, r->rounds, r->bytes, r->pages, (double)r->downtime_us / 1e3, (double)r->freeze_us / 1e3,
	       (double)r->state_us / 1e3, (double)r->last_us / 1e3, (double)r->restore_us / 1e3, (double)r->go_us / 1e3);
}

static int parse_stuck(const struct options *options, enum migrate_stuck *ret, struct err *err)
{
	static const struct { const char *name; enum migrate_stuck what; } names[] = {
		{ "switch", STUCK_SWITCH }, { "abort", STUCK_ABORT }, { "throttle", STUCK_THROTTLE },
	};

	*ret = STUCK_SWITCH;
	for (size_t i = 0; options->on_no_convergence && i < sizeof(names) / sizeof(*names); i++)
		if (strcmp(options->on_no_convergence, names[i].name) == 0) {
			*ret = names[i].what;
			return 0;
		}
	return !options->on_no_convergence ? 0 : err_set(err, EINVAL, "--on-no-convergence %s: there are switch, abort and throttle",
							options->on_no_convergence);
}

/* "100M" */
static int parse_bandwidth(const char *text, uint64_t *ret, struct err *err)
{
	static const char units[] = "KMG";
	const char *unit;
	char *end;

	*ret = strtoull(text, &end, 10);
	unit = *end ? strchr(units, *end) : NULL;
	if (text[0] < '0' || text[0] > '9' || *ret == 0 || *ret > 1000000000000u || (*end && (!unit || end[1])))
		return err_set(err, EINVAL, "--bandwidth %s: a number of bytes a second, as 500K, 100M, 1G", text);
	for (size_t i = 0; unit && i <= (size_t)(unit - units); i++)
		*ret *= 1000;
	return 0;
}

static int open_channel(void *arg, const struct transport *first, unsigned int port, struct transport *ret, struct err *err)
{
	const struct options *options = arg;

	return reach_channel(options, options->operands.at[0], first, port, ret, err);
}

/* By ssh, say, there is one connection, whatever is asked for. */
static int parse_channels(const struct options *options, struct migrate_options *m, struct err *err)
{
	if (options->channels > (int)FRAME_LANES_MAX)
		return err_set(err, EINVAL, "--channels %d: up to %u", options->channels, FRAME_LANES_MAX);
	m->channels = (unsigned int)options->channels;
	if (m->channels && !reach_has_channels(options->operands.at[0])) {
		log_warn("--channels: to %s there is one connection only", options->operands.at[0]);
		m->channels = 0;
	}
	m->channel = open_channel;
	m->channel_arg = (void *)(uintptr_t)options;
	return 0;
}

static bool ssh_ended(pid_t ssh, unsigned int within_ms)
{
	for (unsigned int ms = 0; waitpid(ssh, NULL, WNOHANG) == 0; ms += NAP_MS) {
		if (ms >= within_ms)
			return false;
		usleep(NAP_MS * 1000);
	}
	return true;
}

/* After a failure it may hang on the same wire, for a quarter of an hour, and what is to be told is urgent. */
static void end_ssh(pid_t ssh, bool failed)
{
	static const int signals[] = { SIGTERM, SIGKILL };

	for (size_t i = 0; failed && i < ARRAY_LEN(signals); i++) {
		if (ssh_ended(ssh, SSH_ENDS_MS))
			return;
		kill(ssh, signals[i]);
	}
	waitpid(ssh, NULL, 0);
}

static int move(const struct options *options, struct migrate_options *m, struct migrate_result *ret, struct err *err)
{
	struct sync sync = { 0 };
	struct transport t;
	pid_t ssh;
	int r = reach_target(options, options->operands.at[0], &t, &ssh, err);

	if (r < 0)
		return r;
	if (options->sync && !options->check) {
		r = sync_begin(options, options->operands.at[0], &t, &sync, err);
		m->files = sync_run;
		m->files_arg = &sync;
	}
	if (r == 0)
		r = migrate_send(m, &t, ret, err);
	m->files = NULL;
	m->files_arg = NULL;
	transport_close(&t);
	sync_free(&sync);
	if (ssh > 0)
		end_ssh(ssh, r < 0);
	return r;
}

int cmd_migrate(const struct options *options, struct err *err)
{
	struct migrate_options m = {
		.root = options->tree, .shell_job = options->shell_job, .timeout_s = (unsigned int)options->timeout_s,
		.max_downtime_us = (uint64_t)options->max_downtime_ms * 1000, .max_time_us = (uint64_t)options->max_time_s * 1000000,
		.max_rounds = (unsigned int)options->max_rounds, .dry_run = options->dry_run,
		.leave_stopped = options->then == DUMP_THEN_STOP,
		.check = options->check,
	};
	struct migrate_result result = { 0 };
	struct migrate_report report;
	char tasks[64];
	int r;

	if (options->tree == 0)
		return err_set(err, EINVAL, "which process? (-t PID)");
	if (options->operands.len != 1)
		return err_set(err, EINVAL, "to where? (user@host, ssh://, tls://, tcp://, unix:PATH, fd:N)");
	r = parse_stuck(options, &m.when_stuck, err);
	if (r == 0 && options->bandwidth)
		r = parse_bandwidth(options->bandwidth, &m.bandwidth, err);
	if (r == 0)
		r = parse_channels(options, &m, err);
	if (r == 0)
		r = stream_compression(options, &m.compress, err);
	if (r == 0)
		r = migrate_report_begin(&report, options, &m, err);
	if (r < 0)
		return r;
	r = move(options, &m, &result, err);
	migrate_report_end(&report, r == 0 ? &result : NULL);
	if (r == 0 && options->check)
		printf("nothing is in the way of %s to %s\n", things_text(result.tasks, "task", tasks), options->operands.at[0]);
	else if (r == 0)
		print_result(options, options->operands.at[0], &result);
	return r;
}

/* ---- receive ---- */

static int wait_for(pid_t pid, struct err *err)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, "wait for process %d", pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* What it says or does is its own business: the tasks run. */
static void exec_after(const char *command, pid_t root)
{
	char text[16];
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		snprintf(text, sizeof(text), "%d", root);
		setenv("FERRY_ROOT_PID", text, 1);
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	status = pid < 0 ? -1 : wait_for(pid, &(struct err){ 0 });
	if (status != 0)
		log_warn("--exec-after: '%s' ended with status %d", command, status);
}

static void print_received(const struct options *options, const struct receive_result *r)
{
	char tasks[64], pages[64], spent[24];

	report_done(options, "received %s, %s in %u rounds, and runs them %s after the last; the root is %d",
		    things_text(r->tasks, "task", tasks), things_text(r->pages, "page", pages), r->rounds,
		    time_text(r->restore_us, spent), r->root);
	if (!isatty(STDOUT_FILENO))     /* the log has the line above */
		return;
	printf("root      %10d\n"
	       "total     %10.3f ms\n"
	       "rounds    %10u\n"
	       "received  %10" PRIu64 " bytes\n"
	       "pages     %10" PRIu64 "\n"
	       "restore   %10.3f ms\n", r->root, (double)r->total_us / 1e3, r->rounds, r->bytes, r->pages, (double)r->restore_us / 1e3);
	fflush(stdout);
}

static int listen_more(void *door, const struct transport *first, int *ret_fd, unsigned int *ret_port, struct err *err)
{
	return reach_listen_more(door, first, ret_fd, ret_port, err);
}

static int shake_hands(void *door, struct transport *t, struct err *err)
{
	return reach_shake_hands(door, t, err);
}

/* One that has connected.  1: it only asked; else its root's status, or 0.  Nobody is waited for any more when one has come. */
static int take_one(const struct options *options, struct reach_door *door, struct transport *t, bool *ret_asked, struct err *err)
{
	struct receive_result result = { 0 };
	const struct receive_options receive = { .shell_job = options->shell_job, .phase = tell_phase, .listen = listen_more,
						 .shake_hands = shake_hands, .channel_arg = door };
	int r = reach_shake_hands(door, t, err);

	if (r == 0)
		r = migrate_receive(&receive, t, &result, err);
	transport_close(t);
	*ret_asked = r > 0;
	if (!*ret_asked)
		reach_close(door);
	if (r != 0)
		return r;
	print_received(options, &result);
	if (options->exec_after)
		exec_after(options->exec_after, result.root);
	return options->detached ? 0 : wait_for(result.root, err);
}

static int take_the_first(const struct options *options, struct reach_door *door, struct err *err)
{
	struct transport t;
	bool asked;
	int r;

	do {
		r = reach_accept(options, door, &t, err);
		if (r == 0)
			r = take_one(options, door, &t, &asked, err);
		else
			asked = false;
	} while (asked && door->fd >= 0);
	return asked ? 0 : r;
}

/* A child, which is the parent of what arrives. */
static void serve_one(const struct options *options, struct reach_door *door, struct transport *t)
{
	struct err err = { 0 };
	bool asked;
	int r;

	signal(SIGCHLD, SIG_DFL);
	door->path = NULL;              /* it is not ours alone */
	r = take_one(options, door, t, &asked, &err);
	if (r < 0)
		report_error(options, -1, &err);
	_exit(r < 0);
}

static int take_all(const struct options *options, struct reach_door *door, struct err *err)
{
	signal(SIGCHLD, SIG_IGN);       /* nobody waits for them */
	for (;;) {
		struct transport t;
		pid_t pid;
		int r = reach_accept(options, door, &t, err);

		if (r < 0)
			return r;
		pid = fork();
		if (pid == 0)
			serve_one(options, door, &t);
		if (pid < 0)
			log_warn("fork: %m");
		transport_close(&t);
	}
}

int cmd_receive(const struct options *options, struct err *err)
{
	struct reach_door door;
	int r = reach_open(options, &door, err);

	if (r < 0)
		return r;
	if (!options->once && door.fd < 0)
		return err_set(err, EINVAL, "--no-once needs --listen or --unix");
	r = options->once ? take_the_first(options, &door, err) : take_all(options, &door, err);
	reach_close(&door);
	return r;
}
