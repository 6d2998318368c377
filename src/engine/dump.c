/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "engine/background.h"
#include "engine/dump.h"
#include "engine/dump_behind.h"
#include "engine/freeze.h"
#include "engine/save.h"
#include "engine/see.h"
#include "engine/stream_out.h"
#include "image/messages.h"
#include "image/store.h"
#include "kernel/urgent.h"

#define END_OF_WATCH_US     500000u
#define END_OF_WATCH_NAP_NS 5000000

struct dump {
	const struct dump_options *options;
	struct dump_result result;
	struct look look;
	struct reserve reserve;
	struct tracking tracking;
	struct behind behind;
	struct background background;   /* begun: it is one */
	struct frozen_tree tree;
	struct snapshot snapshot;
	struct seeing seeing;
	struct store *store;
	struct stream_out stream;       /* store: NULL where there is none */
	struct destination *to;
	uint64_t started_us, freeze_us;
	bool frozen;
};

/*
 * Memory is watched, and there is no keeper: one that was killed, or whose ferry was killed while it started it, may
 * not have let go yet.  (The kernel does not tell who watches.  If it is the program itself the dump will be refused.)
 */
static void wait_for_end_of_watch(struct dump *d)
{
	const uint64_t until = clock_us() + END_OF_WATCH_US;

	if (!look_protected(&d->look) || tracking_has_keeper(&d->tracking))
		return;
	log_info("somebody watches its memory, and is no keeper: waiting for an end of that");
	while (look_protected(&d->look) && clock_us() < until) {
		nanosleep(&(struct timespec){ .tv_nsec = END_OF_WATCH_NAP_NS }, NULL);
		look_free(&d->look);
		look_at(d->options->root, &d->look);
	}
}

static int open_store(struct dump *d, struct err *err)
{
	int r;

	if (d->options->stream_fd < 0)
		return store_create_dir(d->options->images_dir, &d->store, err);
	if (d->options->base_dir || d->options->track || d->options->background)
		return err_set(err, EINVAL, "a stream is a whole dump: no --track-mem, --prev-images-dir or --background");
	r = store_create_in_memory(&d->store, err);
	if (r < 0)
		return r;
	store_set_pages_follow(d->store);
	stream_out_init(&d->stream, d->options->stream_fd, &d->options->compress, d->store);
	return 0;
}

static struct stream_out *stream(struct dump *d)
{
	return d->options->stream_fd >= 0 ? &d->stream : NULL;
}

int dump_destination(const struct dump_options *options, struct store *store, struct destination **ret, struct err *err)
{
	if (options->server)
		return to_server(store, options->server, ret, err);
	*ret = to_directory(store);
	return 0;
}

static int dump_look(struct dump *d, struct err *err)
{
	int r = open_store(d, err);

	if (r == 0)
		r = dump_destination(d->options, d->store, &d->to, err);
	if (r < 0)
		return r;
	look_at(d->options->root, &d->look);
	r = tracking_begin(&d->tracking, &(struct tracking_options){
		.root = d->options->root, .base_dir = d->options->base_dir, .to = d->to, .kind = d->options->tracker,
		.keep = d->options->track && d->options->then != DUMP_THEN_KILL, .protected = look_protected(&d->look),
		.guarded = d->options->background,
	}, d->store, err);
	if (r == 0)
		wait_for_end_of_watch(d);
	if (r == 0 && d->to->in_files && !stream(d))
		reserve_room(&d->look, &d->tracking, d->store, &d->reserve);
	return r;
}

static int dump_guard(struct dump *d, struct err *err)
{
	int r;

	if (!d->options->background)
		return 0;
	if (d->options->then != DUMP_THEN_RUN)
		return err_set(err, EINVAL, "--background is for tasks that run on: it wants --leave-running");
	r = background_begin(&d->background, d->options->root, d->options->timeout_s, store_dirfd(d->store), err);
	if (r == 0 || r == -ESRCH || d->options->background != BACKGROUND_OR_STOP)
		return r;
	log_warn("not in the background: %s", err->text);
	background_end(&d->background);
	return 0;
}

static int dump_freeze(struct dump *d, struct err *err)
{
	int r;

	d->freeze_us = clock_us();
	r = d->background.begun ?
		    background_freeze(&d->background, d->options->root, d->options->timeout_s, &d->tree, err) :
		    freeze_tree(d->options->root, d->options->timeout_s, &d->tree, err);
	d->result.freezing_us = clock_us() - d->freeze_us;
	d->frozen = r == 0;
	if (r == 0 && d->tracking.kind != TRACKER_NONE)
		r = tracking_arm(&d->tracking, &d->tree, err);
	else if (r == 0 && d->tracking.base)
		r = tracking_list(&d->tracking, &d->tree, err);
	if (r == 0 && d->background.begun)
		r = background_hold(&d->background, &d->tree, err);
	return r;
}

static struct guard *guard(struct dump *d)
{
	return d->background.begun ? &d->background.guard : NULL;
}

static int begin_writing(void *arg, struct err *err)
{
	struct dump *d = arg;
	const struct progress_meter meter = { .to = d->options->progress, .total = look_pages(&d->look) };

	(void)err;
	behind_begin(&d->behind, &d->snapshot, &d->tracking, d->store, &d->reserve, guard(d), meter, &d->result);
	d->behind.pages.stream = stream(d);
	return 0;
}

static void write_behind(void *arg, size_t index)
{
	behind_ready(&((struct dump *)arg)->behind, index);
}

static int dump_see(struct dump *d, struct err *err)
{
	int r;

	d->seeing = (struct seeing){ .snapshot = &d->snapshot, .tree = &d->tree, .look = &d->look,
				     .shell_job = d->options->shell_job, .tracking = &d->tracking, .guard = guard(d),
				     .tell = { begin_writing, write_behind, d } };
	r = see_tree(&d->seeing, err);
	d->result.tasks = (unsigned int)d->snapshot.tasks.len;
	for (size_t i = 0; i < d->snapshot.tasks.len; i++)
		d->result.threads += (unsigned int)d->snapshot.tasks.at[i].threads.len;
	return r;
}

/* What is shared with the world is copied before it goes on. */
static int dump_run_on(struct dump *d, struct err *err)
{
	int r;

	if (!d->background.begun)
		return 0;
	r = behind_take_directory(&d->behind, err);
	if (r == 0)
		r = pages_shared(&d->behind.pages, err);
	if (r == 0)
		r = save_snapshot(&d->snapshot, d->store, err);
	if (r == 0)
		r = background_run_on(&d->background, &d->tree, &d->snapshot, err);
	d->frozen = r < 0;
	d->result.frozen_us = clock_us() - d->freeze_us + d->background.stood_us;
	if (r == 0)
		log_info("the tasks are running on");
	return r;
}

static int move_memory(void *arg, struct err *err)
{
	struct dump *d = arg;

	if (d->background.begun)
		not_urgent();           /* beside the program */
	return behind_end(&d->behind, false, err);
}

static int dump_memory(struct dump *d, struct err *err)
{
	uint64_t from = clock_us();
	int r = d->background.begun ? background_while(&d->background, move_memory, d, err) : move_memory(d, err);

	d->result.memory_us = clock_us() - from;
	background_end(&d->background);
	return r;
}

static int dump_save(struct dump *d, struct err *err)
{
	int r = d->frozen ? save_snapshot(&d->snapshot, d->store, err) : 0;

	if (r == 0)
		r = tracking_save(&d->tracking, err);
	if (r == 0)
		r = store_seal(d->store, err);
	if (r == 0)
		tracking_keep(&d->tracking);
	return r;
}

static int dump_send(struct dump *d, struct err *err)
{
	int r;

	if (!stream(d))
		return 0;
	d->stream.meter = (struct progress_meter){ .to = d->options->progress, .total = look_pages(&d->look) };
	d->stream.threads = 2;
	r = stream_out_send(&d->stream, &d->snapshot, err);
	d->result.wire_bytes = d->stream.wire_bytes;
	return r;
}

static int save_stats(const struct dump_options *options, const struct dump_result *r, struct err *err)
{
	StatsEntry e = STATS_ENTRY__INIT;
	DumpStatsEntry s = DUMP_STATS_ENTRY__INIT;
	own_writer *w = NULL;
	own_fd dir = open(options->work_dir ? options->work_dir : options->images_dir,
			  O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int done;

	if (dir < 0)
		return err_sys(err, "open the work directory");
	s.freezing_time = (uint32_t)r->freezing_us;
	s.frozen_time = (uint32_t)r->frozen_us;
	s.memdump_time = (uint32_t)r->memory_us;
	s.memwrite_time = (uint32_t)r->memory_us;
	s.pages_scanned = r->pages_scanned;
	s.pages_written = r->pages_written;
	s.pages_skipped_parent = r->pages_in_parent;
	s.has_shpages_written = s.has_shpages_scanned = 1;
	s.shpages_written = s.shpages_scanned = r->shared_pages_written;
	e.dump = &s;
	done = image_create_at(dir, IMAGE_STATS_DUMP, 0, &w, err);
	if (done == 0)
		done = image_put(w, &e.base, err);
	return done < 0 ? done : image_finish(&w, err);
}

void dump_save_stats(const struct dump_options *options, const struct dump_result *result)
{
	struct err err;

	if (save_stats(options, result, &err) < 0)
		log_warn("stats-dump: %s", err.text);
}

/* Killed tasks are gone when this returns, unless their parent does not wait for them. */
static void wait_for_death(const struct dump *d)
{
	for (size_t i = 0; i < d->tree.tasks.len; i++)
		for (size_t k = d->tree.tasks.at[i].tids.len; k-- > 0;) {
			pid_t tid = d->tree.tasks.at[i].tids.at[k];
			int status;

			while (waitpid(tid, &status, __WALL) < 0 && errno == EINTR)
				;
		}
}

static int dump_let_go(struct dump *d, struct err *err)
{
	int r = 0;

	if (!d->frozen) {               /* it was in the background */
	} else if (d->options->then == DUMP_THEN_KILL) {
		freeze_kill(&d->tree);
		d->result.frozen_us = clock_us() - d->freeze_us;
		wait_for_death(d);
	} else {
		r = freeze_release(&d->tree, d->options->then == DUMP_THEN_STOP, err);
		d->result.frozen_us = clock_us() - d->freeze_us;
	}
	d->frozen = false;
	d->result.total_us = clock_us() - d->started_us;
	if (r == 0 && (d->options->work_dir || d->options->images_dir))
		dump_save_stats(d->options, &d->result);
	return r;
}

static void dump_free(struct dump *d)
{
	if (d->frozen)                  /* first: who copies still may take long, and nobody wants it any more */
		freeze_release(&d->tree, false, &(struct err){ 0 });
	behind_end(&d->behind, true, &(struct err){ 0 });
	background_end(&d->background);
	seeing_free(&d->seeing);
	snapshot_free(&d->snapshot);
	look_free(&d->look);
	reserve_free(&d->reserve);
	tracking_free(&d->tracking);
	freeze_free(&d->tree);
	stream_out_free(&d->stream);
	destination_free(d->to);
	store_close(d->store);
}

int dump_run(const struct dump_options *options, struct dump_result *ret_result, struct err *err)
{
	static const struct { const char *name; int (*step)(struct dump *, struct err *); } steps[] = {
		{ "look", dump_look }, { "guard", dump_guard },   { "freeze", dump_freeze }, { "see", dump_see },
		{ "run on", dump_run_on }, { "pages", dump_memory }, { "save", dump_save }, { "send", dump_send },
		{ "let go", dump_let_go },
	};
	struct dump d = { .options = options, .started_us = clock_us() };
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_LEN(steps); i++) {
		uint64_t from = clock_us();

		r = steps[i].step(&d, err);
		log_debug("%s: %llu us", steps[i].name, (unsigned long long)(clock_us() - from));
	}
	dump_free(&d);
	if (r == 0)
		*ret_result = d.result;
	return r;
}
