/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_target.c - a tree on its way in: a function a phase, in the order of migrate.h.
 *
 * What is made in the stage is one restore (`first`), stopped when its vessels are filled; what comes with the second
 * snapshot is another one (`last`), which takes the vessels over and makes the rest.  Both die with us until the source
 * has said that they may run.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/common_mm.h"
#include "engine/migrate.h"
#include "engine/migrate_channels.h"
#include "engine/migrate_hello.h"
#include "engine/restoring.h"
#include "kernel/proc.h"
#include "kernel/sys.h"
#include "kernel/urgent.h"
#include "page/ends.h"
#include "page/runs_frame.h"
#include "resource/resource.h"
#include "wire/frame.h"

#define OOM_SECOND   999        /* oom_score_adj: after the vessels */
#define DYING_TRIES  50u
#define DYING_NAP_US 2000u

struct receiving {
	const struct receive_options *options;
	struct restore_options restore;
	struct transport *transport;
	struct frame_out out;
	struct frame_in in;
	struct lanes lanes;             /* that `in` comes over; none: the transport */
	enum phase phase;
	bool only_asks;                 /* the source says so */
	struct restoring first, last;
	uint64_t all_came_us;
	uint64_t oom_kills;             /* of this machine, when it began */
	struct receive_result result;
};

static void enter(struct receiving *g, enum phase phase)
{
	g->phase = phase;
	if (g->options->phase)
		g->options->phase(g->options->arg, phase);
}

static int say(struct receiving *g, enum migrate_word word, const struct err *why, struct err *err)
{
	struct migrate_say say = { .word = word };
	struct iovec part = { &say, sizeof(say) };

	if (why) {
		say.code = (uint32_t)why->code;
		snprintf(say.text, sizeof(say.text), "%.120s%s%.230s", why->scope, why->scope[0] ? ": " : "", why->text);
	}
	if (g->all_came_us)
		say.restore_us = clock_us() - g->all_came_us;
	return frame_put(&g->out, FRAME_SAY, &part, 1, err);
}

/* ---- hello ---- */

static int hello(struct receiving *g, struct err *err)
{
	struct hello_words theirs;
	int r = migrate_hello(&g->out, &g->in, g->transport, &(struct hello_words){ 0 }, &theirs, err);

	if (r < 0)
		return r;
	g->only_asks = theirs.flags & HELLO_CHECK;
	return channels_accept(g->options, theirs.channels, &g->out, &g->in, &g->lanes, err);
}

/* ---- stage ---- */

static void begin_restore(struct receiving *g, struct restoring *r, struct restoring *before)
{
	*r = (struct restoring){ .options = &g->restore, .staged = true, .before = before, .self = before ? before->self : -1 };
}

/* To a list that begins with this frame. */
static int answer(struct receiving *g, const struct frame *first, struct err *err)
{
	struct need_list list = { 0 };
	int r = need_list_take(&list, &g->in, first, err);

	if (r == 0)
		r = preflight_look(&list, err);
	if (r == 0)
		r = need_list_send(&list, &g->out, err);
	need_list_free(&list);
	return r;
}

/* Answers what the source asks before it.  *ret: the first frame of the stage; its bytes are the caller's. */
static int preflight(struct receiving *g, struct frame *ret, struct err *err)
{
	int r = frame_get(&g->in, ret, err);

	if (r < 0 || (ret->type != FRAME_CHECK && !g->only_asks))
		return r;
	r = answer(g, ret, err);
	free(ret->bytes);
	*ret = (struct frame){ 0 };
	return r < 0 || g->only_asks ? r : frame_get(&g->in, ret, err);
}

static int stage(struct receiving *g, const struct frame *first, struct err *err)
{
	struct restoring *r = &g->first;
	int done;

	begin_restore(g, r, NULL);
	done = restoring_take_images(r, &g->in, first, err);
	if (done == 0)
		done = make_files(r, err);
	if (done == 0)
		done = open_self(r, err);
	if (done == 0)
		done = make_tree(r, err);
	if (done == 0)
		done = end_helpers(r, err);
	if (done == 0)
		done = stream_in_end(r->stream, err);
	g->result.pages = r->result.pages_restored;
	return done < 0 ? done : say(g, SAY_STAGED, NULL, err);
}

/* ---- pages ---- */

static int put_in_task(struct restoring *r, const struct frame *f, struct runs_read *runs, struct err *err)
{
	struct making *m = making_of(r, (pid_t)runs->head.id);
	struct sink_task sink;
	own_fd mem = -1;
	int done = 0;

	if (!m || !m->made || runs->head.id > INT32_MAX)
		return err_set(err, EBADMSG, "the source sent pages of a task that is not there");
	if (f->type == FRAME_DROP) {
		for (size_t i = 0; done == 0 && i < runs->head.runs; i++) {
			const struct page_run *run = &runs->parcels[i].run;

			done = vessel_room(&m->vessel, 1, 0, err);
			if (done == 0)
				script_call(&m->vessel.script, OP_WANT_ANY, SYS_madvise, run->start, run->pages * PAGE_BYTES, MADV_DONTNEED);
		}
		return done < 0 ? done : vessel_run(&m->vessel, err);
	}
	done = proc_open_file(m->vessel.pid, "mem", O_RDWR, &mem, err);
	if (done < 0)
		return done;
	sink_task_init(&sink, m->vessel.pid, mem);
	return sink.base.ops->put_many(&sink.base, runs->parcels, runs->head.runs, err);
}

static int put_in_object(struct restoring *r, const struct frame *f, struct runs_read *runs, struct err *err)
{
	struct sink_file sink;
	int done = 0, fd = -1;

	for (size_t i = 0; i < r->snapshot.shmems.len; i++)
		if (r->snapshot.shmems.at[i].id == runs->head.id)
			fd = r->maker.shmems.at[i];
	if (fd < 0)
		return err_set(err, EBADMSG, "the source sent pages of shared memory that is not there");
	sink_file_init(&sink, fd);
	for (size_t i = 0; done == 0 && i < runs->head.runs; i++) {
		const struct page_parcel *p = &runs->parcels[i];

		if (f->type == FRAME_RUNS)
			done = sink.base.ops->put(&sink.base, &p->run, p->to, p->bytes, err);
		else if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)p->run.start, (off_t)(p->run.pages * PAGE_BYTES)) < 0)
			done = err_sys(err, "clear shared memory");
	}
	return done;
}

static int put(struct receiving *g, struct restoring *r, const struct frame *f, struct err *err)
{
	struct runs_read runs;
	int done = runs_frame_read(f, &runs, err);

	if (done < 0)
		return done;
	done = runs.head.owner == RUNS_TASK ? put_in_task(r, f, &runs, err) : put_in_object(r, f, &runs, err);
	g->result.pages += f->type == FRAME_RUNS ? runs.head.pages : 0;
	free(runs.buf);
	return done;
}

/* ---- rounds ---- */

/* Up to the first frame of the second snapshot, which is *ret (its bytes are the caller's). */
static int rounds(struct receiving *g, struct frame *ret, struct err *err)
{
	for (;;) {
		struct frame f;
		int r = frame_get(&g->in, &f, err);

		if (r < 0)
			return r;
		if (f.type == FRAME_IMAGE) {
			*ret = f;
			return 0;
		}
		if (f.type == FRAME_RUNS || f.type == FRAME_DROP)
			r = put(g, &g->first, &f, err);
		else if (f.type == FRAME_ROUND)
			r = say(g, SAY_ROUND, NULL, err);
		else if (f.type == FRAME_CHECK)
			r = answer(g, &f, err);
		else
			r = err_set(err, EBADMSG, "the source sent something else in a round");
		g->result.rounds += f.type == FRAME_ROUND;
		free(f.bytes);
		if (r < 0)
			return r;
	}
}

/* ---- the switch ---- */

static bool same_exe(struct receiving *g, const struct task *was, const struct task *t)
{
	const char *a = was ? file_path(snapshot_file(&g->first.snapshot, was->mm.exe_file)) : NULL;
	const char *b = file_path(snapshot_file(&g->last.snapshot, t->mm.exe_file));

	return a && b && strcmp(a, b) == 0;
}

/* The source says what is still the same; what we see ourselves must agree. */
static int check_keep(const struct taddr_ranges *ours, const struct migrate_keep *keep, const struct taddr_range *theirs, struct err *err)
{
	size_t k = 0;

	for (size_t i = 0; i < keep->ranges; i++) {
		while (k < ours->len && ours->at[k].end < theirs[i].end)
			k++;
		if (k == ours->len || theirs[i].start < ours->at[k].start || theirs[i].start >= theirs[i].end ||
		    (i > 0 && theirs[i].start < theirs[i - 1].end))
			return err_set(err, EBADMSG, "the source keeps memory that is not there");
	}
	return 0;
}

static int keep_of_task(struct receiving *g, size_t index, const struct frame *f, struct err *err)
{
	const struct task *t = &g->last.snapshot.tasks.at[index], *was = snapshot_task(&g->first.snapshot, t->pid);
	own_free struct taddr_range *theirs = NULL;
	struct taddr_ranges ours = { 0 };
	struct migrate_keep keep;
	int r;

	LOG_SCOPE("task %d", t->pid);
	if (f->type != FRAME_KEEP || f->len_bytes < sizeof(keep))
		return err_set(err, EBADMSG, "the source does not say what it has kept");
	memcpy(&keep, f->bytes, sizeof(keep));
	if (keep.pid != (uint32_t)t->pid || keep.ranges != (f->len_bytes - sizeof(keep)) / sizeof(*theirs))
		return err_set(err, EBADMSG, "the source does not say what it has kept");
	theirs = mem_dup(f->bytes + sizeof(keep), keep.ranges * sizeof(*theirs));
	if (was)
		common_mm(&g->first.snapshot, was, &g->last.snapshot, t, &ours);
	r = check_keep(&ours, &keep, theirs, err);
	vec_free(&ours);
	if (r < 0 || t->state == TASK_ZOMBIE)
		return r;
	r = bring_fds(&g->last, index, err);
	return r < 0 ? r : remap_mm(&g->last, index, theirs, keep.ranges, same_exe(g, was, t), err);
}

static int state(struct receiving *g, const struct frame *first, struct err *err)
{
	struct restoring *r = &g->last;
	int done;

	begin_restore(g, r, &g->first);
	done = restoring_take_images(r, &g->in, first, err);
	if (done == 0)
		done = make_files(r, err);
	if (done == 0)
		done = adopt_tree(r, &g->first, err);
	if (done == 0)
		done = make_late_files(r, err);
	for (size_t i = 0; done == 0 && i < r->snapshot.tasks.len; i++) {
		struct frame f;

		done = frame_get(&g->in, &f, err);
		if (done < 0)
			return done;
		done = keep_of_task(g, i, &f, err);
		free(f.bytes);
	}
	return done;
}

static int last(struct receiving *g, struct err *err)
{
	for (;;) {
		struct frame f;
		int r = frame_get(&g->in, &f, err);
		bool end = r == 0 && f.type == FRAME_LAST;

		if (r < 0)
			return r;
		if (f.type == FRAME_RUNS || f.type == FRAME_DROP)
			r = put(g, &g->last, &f, err);
		else if (!end)
			r = err_set(err, EBADMSG, "the source sent something else among the last pages");
		free(f.bytes);
		if (r < 0 || end)
			return r;
	}
}

static int finish(struct receiving *g, struct err *err)
{
	struct restoring *r = &g->last;
	int done = attach_files(r, err);

	if (done == 0)
		done = seal_shmems(r, err);
	for (size_t i = 0; done == 0 && i < r->snapshot.tasks.len; i++)
		if (r->snapshot.tasks.at[i].state != TASK_ZOMBIE)
			done = narrow_mm(r, i, err);
	return done < 0 ? done : restoring_state(r, err);
}

static int wait_for_commit(struct receiving *g, struct err *err)
{
	struct frame f = { 0 };
	int r = say(g, SAY_READY, NULL, err);

	if (r == 0)                     /* all that the channels had to carry is here: the word needs none of them */
		r = frame_get(lanes_first_in(&g->lanes, &g->in), &f, err);
	if (r < 0)
		return r;
	free(f.bytes);
	return f.type == FRAME_COMMIT ? 0 : err_set(err, EBADMSG, "the source says something else than that they may run");
}

/* From the second snapshot on the program stands still, and waits for us. */
static int switch_over(struct receiving *g, const struct frame *first, struct err *err)
{
	int r;

	enter(g, PHASE_STATE);
	r = state(g, first, err);
	if (r < 0)
		return r;
	enter(g, PHASE_LAST);
	r = last(g, err);
	g->all_came_us = clock_us();
	if (r == 0)
		r = finish(g, err);
	if (r < 0)
		return r;
	enter(g, PHASE_READY);
	r = wait_for_commit(g, err);
	if (r < 0)
		return r;
	enter(g, PHASE_COMMIT);
	return let_go(&g->last, err);
}

static int rounds_and_switch(struct receiving *g, struct err *err)
{
	struct urgent urgent;
	struct frame first = { 0 };
	int r = rounds(g, &first, err);

	if (r < 0)
		return r;
	urgent_begin(&urgent);
	r = switch_over(g, &first, err);
	urgent_end(&urgent);
	free(first.bytes);
	return r;
}

/* ---- all of it ---- */

static uint64_t oom_kills(void)
{
	return proc_number("/proc/vmstat", "oom_kill ");
}

/* A vessel that was killed lets calls fail that say nothing of that, some of them before it is dead. */
static void tell_killed(const struct receiving *g, struct err *err)
{
	const struct err seen = *err;
	bool oom = oom_kills() > g->oom_kills;
	pid_t pid = 0;

	for (unsigned int i = 0; pid == 0 && i <= (oom ? DYING_TRIES : 0); i++) {
		if (i > 0)
			usleep(DYING_NAP_US);
		pid = restoring_lost(&g->last);
		if (pid == 0)
			pid = restoring_lost(&g->first);
	}
	if (pid > 0)
		err_set(err, oom ? ENOMEM : seen.code, "process %d was killed before it could run: %.250s", pid, oom ? "out of memory" : seen.text);
}

static void kill_all(struct receiving *g)
{
	restoring_kill(&g->first);
	restoring_kill(&g->last);
	restoring_reap();
}

static void forget(struct receiving *g)
{
	own_fd_drop(&g->first.self);
	restoring_free(&g->last);
	restoring_free(&g->first);
	begin_restore(g, &g->first, NULL);
	begin_restore(g, &g->last, NULL);
}

/* What the source sends before it listens. */
static int skip_to_last(struct receiving *g, struct err *err)
{
	for (bool end = false; !end;) {
		struct frame f;
		int r = frame_get(&g->in, &f, err);

		if (r < 0)
			return r;
		end = f.type == FRAME_LAST;
		free(f.bytes);
	}
	return 0;
}

/* The vessels are of no use: away with them, and another stage. */
static int begin_again(struct receiving *g, const struct err *why, struct err *err)
{
	int r;

	log_info("%s: it is staged anew", why->text);
	kill_all(g);
	forget(g);
	r = skip_to_last(g, err);
	return r < 0 ? r : say(g, SAY_STALE, why, err);
}

static int run(struct receiving *g, struct err *err)
{
	struct err why;
	int r = hello(g, err);

	while (r == 0) {
		struct frame first = { 0 };

		r = preflight(g, &first, err);
		if (r == 0 && g->only_asks)
			return 1;
		enter(g, PHASE_STAGE);
		if (r == 0)
			r = stage(g, &first, err);
		free(first.bytes);
		if (r < 0)
			return r;
		enter(g, PHASE_ROUND);
		r = rounds_and_switch(g, err);
		if (r != -ESTALE || g->all_came_us)     /* after all has come it is a file system's word, and nothing is left to skip */
			return r;
		why = *err;
		r = begin_again(g, &why, err);
	}
	return r;
}

int migrate_receive(const struct receive_options *options, struct transport *t, struct receive_result *ret, struct err *err)
{
	struct receiving g = { .options = options, .transport = t, .restore = { .stream_fd = -1, .shell_job = options->shell_job },
			       .first.self = -1, .last.self = -1, .oom_kills = oom_kills() };
	uint64_t began_us = clock_us();
	struct err lost;
	int score = 0, r;
	/* what a killed vessel had is held while we write to it: then it shall be us, and nobody else */
	bool scored = proc_oom_score_adj(getpid(), &score, &lost) == 0 && proc_set_oom_score_adj(getpid(), OOM_SECOND, &lost) == 0;

	not_urgent();                   /* until the program stands still */
	enter(&g, PHASE_HELLO);
	r = run(&g, err);
	if (r < 0) {
		tell_killed(&g, err);
		r = -err->code;
		kill_all(&g);
		if (g.out.transport)
			say(&g, SAY_FAILED, err, &lost);
		enter(&g, PHASE_ABORT);
	} else if (r == 0) {
		say(&g, SAY_RUNS, NULL, &lost);
		g.result.root = g.last.snapshot.tasks.at[0].pid;
		g.result.tasks = (unsigned int)g.last.snapshot.tasks.len;
		g.result.restore_us = clock_us() - g.all_came_us;
		g.result.total_us = clock_us() - began_us;
		g.result.bytes = g.in.bytes;
		*ret = g.result;
		enter(&g, PHASE_DONE);
	}
	lanes_close(&g.lanes);
	forget(&g);
	if (scored && proc_set_oom_score_adj(getpid(), score, &lost) < 0)
		log_warn("oom_score_adj stays %d: %s", OOM_SECOND, lost.text);
	return r;
}
