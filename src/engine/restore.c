/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "engine/load.h"
#include "engine/restoring.h"
#include "image/messages.h"

static int restore_load(struct restoring *r, struct err *err)
{
	int done = store_open_dir(r->options->images_dir, &r->store, err);

	return done < 0 ? done : load_snapshot(r->store, &r->snapshot, err);
}

/* Pages files are numbered from 1 on without a gap. */
static uint64_t count_pages(const struct store *store)
{
	struct stat st;
	uint64_t pages = 0;

	for (uint64_t id = 1;; id++) {
		own_fd fd = -1;

		if (store_open_file(store, IMAGE_PAGES, id, &fd, &(struct err){ 0 }) <= 0 || fstat(fd, &st) < 0)
			return pages;
		pages += (uint64_t)st.st_size / PAGE_BYTES;
	}
}

static int restore_files(struct restoring *r, struct err *err)
{
	if (r->meter.to)
		r->meter.total = count_pages(r->store);
	return make_files(r, err);
}

static int restore_tree(struct restoring *r, struct err *err)
{
	uint64_t from = clock_us();
	int done = make_tree(r, err);

	if (done == 0)
		done = end_helpers(r, err);
	if (done == 0)
		done = attach_files(r, err);
	if (done == 0)
		done = seal_shmems(r, err);
	r->result.forking_us = clock_us() - from;
	return done;
}

/* Of a task that somebody kills while it is made, the threads must be waited for before its leader's end is told. */
static int watch_threads(struct restoring *r, struct err *err)
{
	for (size_t i = 0; i < r->snapshot.tasks.len; i++)
		for (size_t k = 1; k < r->snapshot.tasks.at[i].threads.len; k++)
			vec_push(&r->threads, r->snapshot.tasks.at[i].threads.at[k].tid);
	if (r->threads.len == 0)
		return 0;
	if (reaper_start(&r->reaper, err) < 0)
		return -err->code;
	reaper_look_at(r->reaper, r->threads.at, r->threads.len);
	return 0;
}

/* Children first: what they tell their parents while they are made is over when the parent's own signals come. */
static int restore_state(struct restoring *r, struct err *err)
{
	int done = watch_threads(r, err);

	for (size_t i = r->snapshot.tasks.len; done == 0 && i-- > 0;)
		done = make_state(r, i, err);
	return done;
}

static int save_stats(const struct restoring *r, struct err *err)
{
	StatsEntry e = STATS_ENTRY__INIT;
	RestoreStatsEntry s = RESTORE_STATS_ENTRY__INIT;
	own_writer *w = NULL;
	own_fd dir = open(r->options->work_dir ? r->options->work_dir : r->options->images_dir,
			  O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int done;

	if (dir < 0)
		return err_sys(err, "open the work directory");
	s.pages_compared = r->result.pages_compared;
	s.pages_skipped_cow = r->result.pages_shared;
	s.has_pages_restored = 1;
	s.pages_restored = r->result.pages_restored;
	s.forking_time = (uint32_t)r->result.forking_us;
	s.restore_time = (uint32_t)r->result.total_us;
	e.restore = &s;
	done = image_create_at(dir, IMAGE_STATS_RESTORE, 0, &w, err);
	if (done == 0)
		done = image_put(w, &e.base, err);
	return done < 0 ? done : image_finish(&w, err);
}

/*
 * Whatever was made dies; all are our tracees, and we wait for them.  One that stops only now was made by a task
 * that was killed before it could say so.
 */
static void kill_all(struct restoring *r)
{
	pid_t pid;
	int status;

	for (size_t i = 0; r->tasks && i < r->snapshot.tasks.len; i++)
		if (r->tasks[i].made && !r->tasks[i].dead)
			kill(r->snapshot.tasks.at[i].pid, SIGKILL);
	for (size_t i = 0; i < r->helpers.len; i++)
		kill(r->helpers.at[i].vessel.pid, SIGKILL);
	while ((pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR)
		if (pid > 0 && WIFSTOPPED(status))
			kill(pid, SIGKILL);
}

static void restoring_free(struct restoring *r)
{
	for (size_t i = 0; r->tasks && i < r->snapshot.tasks.len; i++) {
		page_map_free(&r->tasks[i].pages);
		vessel_free(&r->tasks[i].vessel);
	}
	for (size_t i = 0; i < r->helpers.len; i++)
		vessel_free(&r->helpers.at[i].vessel);
	for (size_t i = 0; i < r->maker.fds.len; i++)
		if (r->maker.fds.at[i] >= 0)
			close(r->maker.fds.at[i]);
	for (size_t i = 0; i < r->maker.mapped.len; i++)
		close(r->maker.mapped.at[i].fd);
	for (size_t i = 0; i < r->maker.pipes.len; i++) {
		if (r->maker.pipes.at[i].read_fd >= 0)
			close(r->maker.pipes.at[i].read_fd);
		if (r->maker.pipes.at[i].write_fd >= 0)
			close(r->maker.pipes.at[i].write_fd);
	}
	for (size_t i = 0; i < r->maker.shmems.len; i++)
		close(r->maker.shmems.at[i]);
	vec_free(&r->maker.fds);
	vec_free(&r->maker.mapped);
	vec_free(&r->maker.pipes);
	vec_free(&r->maker.shmems);
	vec_free(&r->helpers);
	reaper_free(r->reaper);
	vec_free(&r->threads);
	free(r->tasks);
	snapshot_free(&r->snapshot);
	store_close(r->store);
}

static void count(struct restoring *r, uint64_t started_us)
{
	r->result.root = r->snapshot.tasks.at[0].pid;
	r->result.tasks = (unsigned int)r->snapshot.tasks.len;
	for (size_t i = 0; i < r->snapshot.tasks.len; i++)
		r->result.threads += (unsigned int)r->snapshot.tasks.at[i].threads.len;
	r->result.total_us = clock_us() - started_us;
}

int restore_run(const struct restore_options *options, struct restore_result *ret_result, struct err *err)
{
	static const struct { const char *name; int (*step)(struct restoring *, struct err *); } steps[] = {
		{ "load", restore_load },   { "files", restore_files }, { "tree", restore_tree },
		{ "state", restore_state }, { "go", let_go },
	};
	struct restoring r = { .options = options, .meter = { .to = options->progress } };
	struct err lost;
	uint64_t started_us = clock_us();
	size_t end = options->check_only ? 1 : ARRAY_LEN(steps);
	int done = 0;

	for (size_t i = 0; done == 0 && i < end; i++) {
		uint64_t from = clock_us();

		done = steps[i].step(&r, err);
		log_debug("%s: %llu us", steps[i].name, (unsigned long long)(clock_us() - from));
	}
	if (done < 0)
		kill_all(&r);
	else
		count(&r, started_us);
	if (done == 0 && !options->check_only && save_stats(&r, &lost) < 0)
		log_warn("stats-restore: %s", lost.text);
	if (done == 0)
		*ret_result = r.result;
	restoring_free(&r);
	return done;
}
