/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "engine/dump.h"
#include "engine/dump_behind.h"
#include "engine/freeze.h"
#include "engine/save.h"
#include "engine/see.h"
#include "image/messages.h"
#include "image/store.h"

struct dump {
	const struct dump_options *options;
	struct dump_result result;
	struct look look;
	struct reserve reserve;
	struct behind behind;
	struct frozen_tree tree;
	struct snapshot snapshot;
	struct seeing seeing;
	struct store *store;
	uint64_t started_us, freeze_us;
	bool frozen;
};

static int dump_look(struct dump *d, struct err *err)
{
	int r = store_create_dir(d->options->images_dir, &d->store, err);

	if (r < 0)
		return r;
	look_at(d->options->root, &d->look);
	reserve_room(&d->look, d->store, &d->reserve);
	return 0;
}

static int dump_freeze(struct dump *d, struct err *err)
{
	int r;

	d->freeze_us = clock_us();
	r = freeze_tree(d->options->root, d->options->timeout_s, &d->tree, err);
	d->result.freezing_us = clock_us() - d->freeze_us;
	d->frozen = r == 0;
	return r;
}

static int begin_writing(void *arg, struct err *err)
{
	struct dump *d = arg;

	const struct progress_meter meter = { .to = d->options->progress, .total = look_pages(&d->look) };

	return behind_begin(&d->behind, &d->snapshot, d->store, &d->reserve, meter, &d->result, err);
}

static void write_behind(void *arg, size_t index)
{
	behind_ready(&((struct dump *)arg)->behind, index);
}

static int dump_see(struct dump *d, struct err *err)
{
	int r;

	d->seeing = (struct seeing){ .snapshot = &d->snapshot, .tree = &d->tree, .look = &d->look,
				     .shell_job = d->options->shell_job,
				     .tell = { begin_writing, write_behind, d } };
	r = see_tree(&d->seeing, err);
	d->result.tasks = (unsigned int)d->snapshot.tasks.len;
	for (size_t i = 0; i < d->snapshot.tasks.len; i++)
		d->result.threads += (unsigned int)d->snapshot.tasks.at[i].threads.len;
	return r;
}

static int dump_memory(struct dump *d, struct err *err)
{
	uint64_t from = clock_us();
	int r = behind_end(&d->behind, false, err);

	d->result.memory_us = clock_us() - from;
	return r;
}

static int dump_save(struct dump *d, struct err *err)
{
	int r = save_snapshot(&d->snapshot, d->store, err);

	return r < 0 ? r : store_seal(d->store, err);
}

static int save_stats(const struct dump *d, struct err *err)
{
	const struct dump_result *r = &d->result;
	StatsEntry e = STATS_ENTRY__INIT;
	DumpStatsEntry s = DUMP_STATS_ENTRY__INIT;
	own_writer *w = NULL;
	own_fd dir = open(d->options->work_dir ? d->options->work_dir : d->options->images_dir,
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
	struct err lost;
	int r = 0;

	if (d->options->then == DUMP_THEN_KILL) {
		freeze_kill(&d->tree);
		d->result.frozen_us = clock_us() - d->freeze_us;
		wait_for_death(d);
	} else {
		r = freeze_release(&d->tree, d->options->then == DUMP_THEN_STOP, err);
		d->result.frozen_us = clock_us() - d->freeze_us;
	}
	d->frozen = false;
	d->result.total_us = clock_us() - d->started_us;
	if (r == 0 && save_stats(d, &lost) < 0)
		log_warn("stats-dump: %s", lost.text);
	return r;
}

static void dump_free(struct dump *d)
{
	behind_end(&d->behind, true, &(struct err){ 0 });
	if (d->frozen)
		freeze_release(&d->tree, false, &(struct err){ 0 });
	seeing_free(&d->seeing);
	snapshot_free(&d->snapshot);
	look_free(&d->look);
	reserve_free(&d->reserve);
	freeze_free(&d->tree);
	store_close(d->store);
}

int dump_run(const struct dump_options *options, struct dump_result *ret_result, struct err *err)
{
	static const struct { const char *name; int (*step)(struct dump *, struct err *); } steps[] = {
		{ "look", dump_look },     { "freeze", dump_freeze }, { "see", dump_see },
		{ "pages", dump_memory },  { "save", dump_save },     { "let go", dump_let_go },
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
