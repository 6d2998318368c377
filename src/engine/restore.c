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
#include "base/mem.h"
#include "base/own.h"
#include "engine/load.h"
#include "engine/restoring.h"
#include "image/link.h"
#include "image/messages.h"
#include "kernel/proc.h"

struct page_source *restoring_source(struct restoring *r, const struct page_map *map, union page_origin *ret)
{
	if (r->stream) {
		source_feed_init(&ret->feed, &r->stream->feed, map);
		return &ret->feed.base;
	}
	source_map_init(&ret->map, map);
	return &ret->map.base;
}

static bool is_file(const struct page_file *f, const struct feed_file *file)
{
	return f->dev == file->dev && f->ino == file->ino;
}

static bool has_file(const struct page_map *map, const struct feed_file *file)
{
	for (size_t i = 0; i < map->files.len; i++)
		if (is_file(&map->files.at[i], file))
			return true;
	return false;
}

/* Which task has this page of a pages file in memory, and in which piece.  NULL: none has. */
static const struct page_piece *find_lender(const struct restoring *r, const struct feed_file *file, uint64_t offset,
					    size_t *ret_task)
{
	for (size_t i = 0; r->tasks && i < r->snapshot.tasks.len; i++) {
		const struct page_map *map = &r->tasks[i].pages.map;

		if (!r->tasks[i].filled || !has_file(map, file))
			continue;
		*ret_task = i;
		for (size_t k = 0; k < map->pieces.len; k++) {
			const struct page_piece *p = &map->pieces.at[k];

			if (is_file(&map->files.at[p->file], file) && p->offset <= offset && offset - p->offset < p->pages * PAGE_BYTES)
				return p;
		}
	}
	return NULL;
}

/* Pages that went by and are wanted again: tasks have them already, each maybe a part, and cut in its own way. */
static int lend(void *arg, const struct feed_file *file, uint64_t offset, uint64_t pages, void *buf, struct err *err)
{
	struct restoring *r = arg;
	size_t len = pages * PAGE_BYTES, n, task;

	for (size_t done = 0; done < len; done += n) {
		const struct page_piece *p = find_lender(r, file, offset + done, &task);
		own_fd mem = -1;
		uint64_t skip;

		if (!p)
			return err_set(err, EBADMSG, "the stream has pages-%u.img too early", file->pages_id);
		skip = offset + done - p->offset;
		n = p->pages * PAGE_BYTES - skip < len - done ? p->pages * PAGE_BYTES - skip : len - done;
		if (proc_open_file(r->snapshot.tasks.at[task].pid, "mem", O_RDONLY, &mem, err) < 0)
			return -err->code;
		if (pread(mem, (uint8_t *)buf + done, n, (off_t)(p->start + skip)) != (ssize_t)n)
			return err_sys(err, "read pages that task %d has", r->snapshot.tasks.at[task].pid);
	}
	return 0;
}

/* The images come into memory; the pages stay in the stream until somebody wants them. */
static int begin_stream(struct restoring *r, struct err *err)
{
	int done = store_create_in_memory(&r->store, err);

	if (done == 0)
		r->stream = mem_new(sizeof(*r->stream));
	return done;
}

static void lend_to_stream(struct restoring *r)
{
	r->stream->feed.lend = lend;
	r->stream->feed.lend_arg = r;
}

static int open_stream(struct restoring *r, struct err *err)
{
	int done = begin_stream(r, err);

	if (done < 0)
		return done;
	done = stream_in_begin(r->stream, r->options->stream_fd, r->store, err);
	lend_to_stream(r);
	return done;
}

int restoring_take_images(struct restoring *r, struct frame_in *in, const struct frame *first, struct err *err)
{
	int done = begin_stream(r, err);

	if (done < 0)
		return done;
	done = stream_in_go_on(r->stream, in, first, r->store, err);
	lend_to_stream(r);
	return done < 0 ? done : load_snapshot(r->store, &r->snapshot, err);
}

static int restore_load(struct restoring *r, struct err *err)
{
	struct image_link link = { 0 };
	const char *dir = r->options->images_dir;
	int done = r->options->stream_fd >= 0 ? open_stream(r, err) :
		   r->options->unchecked ? store_open_unchecked(dir, &r->store, err) : store_open_dir(dir, &r->store, err);

	if (done == 0)
		done = link_check_chain(r->store, err);
	if (done == 0)
		done = link_read(r->store, &link, err);
	if (done > 0 && link.memory_only)
		return err_set(err, EINVAL, "this is a pre-dump, memory alone: restore the dump that was made on top of it "
			       "(dump --prev-images-dir)");
	if (done >= 0)
		done = load_snapshot(r->store, &r->snapshot, err);
	if (done < 0 || !r->stream || !r->options->check_only)
		return done;
	done = stream_in_end(r->stream, err);
	if (done == 0)                  /* else who sent it would end what nobody has restored */
		frame_answer(r->options->stream_fd, "a dry run: it could be restored");
	return done;
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
		r->meter.total = r->stream ? r->stream->pages : count_pages(r->store);
	return make_files(r, err);
}

static bool has_late_files(const struct restoring *r)
{
	for (size_t i = 0; i < r->snapshot.files.len; i++)
		if (is_late_file(r, &r->snapshot.files.at[i]))
			return true;
	return false;
}

static int bring_all_late(struct restoring *r, struct err *err)
{
	int done = make_late_files(r, err);

	for (size_t i = 0; done == 0 && i < r->snapshot.tasks.len; i++)
		if (r->snapshot.tasks.at[i].state != TASK_ZOMBIE)
			done = bring_fds(r, i, err);
	return done;
}

static int restore_tree(struct restoring *r, struct err *err)
{
	uint64_t from = clock_us();
	bool late = has_late_files(r);
	int done = late ? open_self(r, err) : 0;

	if (done == 0)
		done = make_tree(r, err);
	if (done == 0)
		done = end_helpers(r, err);
	if (done == 0 && late)
		done = bring_all_late(r, err);
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
int restoring_state(struct restoring *r, struct err *err)
{
	int done = watch_threads(r, err);

	for (size_t i = r->snapshot.tasks.len; done == 0 && i-- > 0;)
		done = make_state(r, i, err);
	return done;
}

static int restore_state(struct restoring *r, struct err *err)
{
	int done = restoring_state(r, err);

	if (done == 0 && r->stream) {
		done = stream_in_end(r->stream, err);
		if (done == 0)
			frame_answer(r->options->stream_fd, NULL);
	}
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

pid_t restoring_lost(const struct restoring *r)
{
	for (size_t i = 0; r->tasks && i < r->snapshot.tasks.len; i++) {
		pid_t pid = r->snapshot.tasks.at[i].pid;
		struct proc_stat stat;

		if (r->tasks[i].made && !r->tasks[i].dead &&
		    (proc_stat(pid, 0, &stat, &(struct err){ 0 }) < 0 || proc_is_dead(stat.state)))
			return pid;
	}
	return 0;
}

void restoring_kill(struct restoring *r)
{
	for (size_t i = 0; r->tasks && i < r->snapshot.tasks.len; i++)
		if (r->tasks[i].made && !r->tasks[i].dead)
			kill(r->snapshot.tasks.at[i].pid, SIGKILL);
	for (size_t i = 0; i < r->helpers.len; i++)
		kill(r->helpers.at[i].vessel.pid, SIGKILL);
}

/*
 * All that was made is killed, and waited for: they are our tracees.  One that stops only now was made by a task
 * that was killed before it could say so.
 */
void restoring_reap(void)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR)
		if (pid > 0 && WIFSTOPPED(status))
			kill(pid, SIGKILL);
}

void restoring_free(struct restoring *r)
{
	for (size_t i = 0; r->tasks && i < r->snapshot.tasks.len; i++) {
		loaded_pages_free(&r->tasks[i].pages);
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
		own_fd_drop(&r->maker.shmems.at[i]);
	vec_free(&r->maker.fds);
	vec_free(&r->maker.mapped);
	vec_free(&r->maker.pipes);
	vec_free(&r->maker.shmems);
	vec_free(&r->helpers);
	reaper_free(r->reaper);
	vec_free(&r->threads);
	free(r->tasks);
	if (r->stream)
		stream_in_free(r->stream);
	free(r->stream);
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
	struct restoring r = { .options = options, .self = -1, .meter = { .to = options->progress } };
	struct err lost;
	uint64_t started_us = clock_us();
	size_t end = options->check_only ? 1 : ARRAY_LEN(steps);
	int done = 0;

	for (size_t i = 0; done == 0 && i < end; i++) {
		uint64_t from = clock_us();

		done = steps[i].step(&r, err);
		log_debug("%s: %llu us", steps[i].name, (unsigned long long)(clock_us() - from));
	}
	if (done < 0 && options->stream_fd >= 0)
		frame_answer(options->stream_fd, err->text);
	if (done < 0) {
		restoring_kill(&r);
		restoring_reap();
	} else {
		count(&r, started_us);
	}
	if (done == 0 && !options->check_only && (options->work_dir || options->images_dir) && save_stats(&r, &lost) < 0)
		log_warn("stats-restore: %s", lost.text);
	if (done == 0)
		*ret_result = r.result;
	own_fd_drop(&r.self);
	restoring_free(&r);
	return done;
}
