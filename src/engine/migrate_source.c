/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_source.c - a tree on its way out: a function a phase, in the order of migrate.h.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/common_mm.h"
#include "engine/converge.h"
#include "engine/destination.h"
#include "engine/freeze.h"
#include "engine/migrate.h"
#include "engine/migrate_channels.h"
#include "engine/migrate_hello.h"
#include "engine/migrate_memory.h"
#include "engine/save.h"
#include "engine/see.h"
#include "engine/stream_out.h"
#include "engine/throttle.h"
#include "kernel/ptrace.h"
#include "kernel/sys.h"
#include "kernel/urgent.h"
#include "page/sink_runs.h"
#include "wire/frame.h"

#define THREADS       MIGRATE_THREADS
#define RUNNING_TRIES 2u       /* stages of a tree that runs */
#define LOOK_SHORT_US 2000u
#define LONGER_MS     5000      /* than the target waits for COMMIT: it has ended its tasks before it says that it gives up */
#define UNDONE_MS     10000     /* for the target to end what a dry run has made: who comes next wants the same pids */
#define PIECE         (16ull << 20)
#define ALIVE_MS      5000
#define PATIENCE      3u      /* rounds that leave as much as they sent */

static void enter(struct migration *m, enum phase phase)
{
	if (m->phase != phase && !phase_may(m->phase, phase))
		log_warn("phase %s after %s", phase_rules[phase].name, phase_rules[m->phase].name);
	m->phase = phase;
	if (m->options->phase)
		m->options->phase(m->options->arg, phase);
}

/* ---- what the target says ---- */

static int take_word(struct migration *m, enum migrate_word wanted, struct migrate_say *ret, struct err *err)
{
	struct frame f;
	int r = frame_get(&m->in, &f, err);

	if (r < 0)
		return r;
	r = migrate_words(&f, m->transport->peer, ret, err);
	free(f.bytes);
	if (r < 0)
		return r;
	if (ret->word == SAY_STALE && wanted == SAY_READY)
		return err_set(err, ESTALE, "the target: %s", ret->text);
	return ret->word == wanted ? 0 : err_set(err, EBADMSG, "%s answers something else", m->transport->peer);
}

/* The connection broke while something was sent, or channels could not be made: maybe the target said why. */
static int failed(struct migration *m, struct err *err)
{
	struct migrate_say say;
	struct err other = { 0 };
	int timeout_ms = m->transport->timeout_ms;
	bool channels = m->phase == PHASE_HELLO && m->options->channels && m->in.transport && err->code != EREMOTEIO;

	if (err->code != ECONNRESET && err->code != EPIPE && !channels)
		return -err->code;
	m->transport->timeout_ms = 1000;
	for (int r = 0; r == 0 && other.code == 0;)
		r = take_word(m, SAY_COUNT, &say, &other);
	m->transport->timeout_ms = timeout_ms;
	if (other.code == EREMOTEIO) {
		*err = other;
	} else if (m->phase != PHASE_HELLO) {
		other = *err;
		err_set(err, other.code, "%.230s and did not say why: the wire was cut, or ferry was ended there (out of memory?)", other.text);
	}
	return -err->code;
}

/* ---- hello ---- */

static int hello(struct migration *m, struct err *err)
{
	const struct hello_words ours = { m->options->check ? HELLO_CHECK : 0, m->options->check ? 0 : m->options->channels };
	struct hello_words theirs;
	int r = migrate_hello(&m->out, &m->in, m->transport, &ours, &theirs, err);

	return r < 0 || ours.channels == 0 ? r : channels_connect(m->options, &m->out, &m->in, &m->lanes, err);
}

/* ---- a snapshot ---- */

static int new_store(struct migration *m, struct err *err)
{
	struct store *store;
	int r = store_create_in_memory(&store, err);

	if (r < 0)
		return r;
	store_close(m->store);
	m->store = store;
	store_set_pages_follow(store);
	return 0;
}

static void look_anew(struct migration *m)
{
	look_free(&m->look);
	look_at(m->options->root, &m->look);
}

static int freeze(struct migration *m, struct err *err)
{
	int r;

	if (m->frozen)
		return 0;
	freeze_free(&m->tree);
	m->tree = (struct frozen_tree){ 0 };
	r = freeze_tree(m->options->root, m->options->timeout_s, &m->tree, err);
	m->frozen = r == 0;
	return r;
}

/* A SIGSTOP that waits is taken back by SIGCONT; who was stopped before gets none. */
static void release_brake(struct migration *m)
{
	for (size_t i = 0; m->braked && i < m->tree.tasks.len; i++)
		if (!m->tree.tasks.at[i].zombie && m->tree.tasks.at[i].stop_signal == 0)
			kill(m->tree.tasks.at[i].pid, SIGCONT);
	m->braked = false;
}

static int thaw(struct migration *m, bool stopped, struct err *err)
{
	int r = 0;

	if (m->frozen && !stopped)
		release_brake(m);
	if (m->frozen)
		r = freeze_release(&m->tree, stopped, err);
	m->frozen = false;
	return r;
}

static bool same_call(const struct user_regs_struct *a, const struct user_regs_struct *now)
{
	return a->rip + 2 == now->rip && a->rsp == now->rsp && a->rbp == now->rbp && a->rbx == now->rbx && a->rdi == now->rdi &&
	       a->rsi == now->rsi && a->rdx == now->rdx && a->r10 == now->r10 && a->r8 == now->r8 && a->r9 == now->r9;
}

/* After our first stop the kernel has made calls with a time again by restart_syscall, which hides them from the second one. */
static void tell_calls(struct migration *m)
{
	struct user_regs_struct now;

	for (size_t i = 0; i < m->calls.len; i++)
		if (ptrace_get_regs(m->calls.at[i].tid, &now, &(struct err){ 0 }) == 0 && same_call(&m->calls.at[i].regs, &now))
			vec_push(&m->tree.calls, ((struct seen_call){ m->calls.at[i].tid, m->calls.at[i].regs.rax }));
}

static void note_call(struct migration *m, const struct thread *t)
{
	for (size_t i = 0; i < m->calls.len; i++)
		if (m->calls.at[i].tid == t->tid) {
			m->calls.at[i].regs = t->regs;
			return;
		}
	vec_push(&m->calls, ((struct held_call){ t->tid, t->regs }));
}

static void note_calls(struct migration *m, const struct snapshot *s)
{
	for (size_t i = 0; i < s->tasks.len; i++)
		for (size_t k = 0; k < s->tasks.at[i].threads.len; k++)
			if (s->tasks.at[i].threads.at[k].interrupted)
				note_call(m, &s->tasks.at[i].threads.at[k]);
}

static void refused(void *arg, const struct err *why)
{
	struct migration *m = arg;

	preflight_refusal(&m->blocks, why);
}

static int see(struct migration *m, struct snapshot *s, struct err *err)
{
	struct seeing seeing = { .snapshot = s, .tree = &m->tree, .look = &m->look, .shell_job = m->options->shell_job,
				 .tracking = &m->tracking };
	int r;

	tell_calls(m);
	if (s == &m->first) {
		seeing.refused.tell = refused;
		seeing.refused.arg = m;
	}
	r = see_tree(&seeing, err);
	note_calls(m, s);
	seeing_free(&seeing);
	return r;
}

static int save(struct migration *m, struct snapshot *s, struct err *err)
{
	int r = new_store(m, err);

	for (size_t i = 0; r == 0 && i < s->tasks.len; i++)
		r = save_cores(&s->tasks.at[i], m->store, err);
	return r < 0 ? r : save_snapshot(s, m->store, err);
}

/* ---- preflight ---- */

/* What the target says to the list. */
static int ask_target(struct migration *m, const struct need_list *wanted, struct err *err)
{
	struct need_list answer = { 0 };
	int r = need_list_send(wanted, &m->out, err);

	if (r == 0)
		r = need_list_take(&answer, &m->in, NULL, err);
	if (r == 0)
		r = preflight_compare(wanted, &answer, &m->blocks, err);
	need_list_free(&answer);
	for (size_t i = 0; r == 0 && i < m->blocks.blocks.len && m->options->blocked; i++)
		m->options->blocked(m->options->arg, &m->blocks.blocks.at[i]);
	if (r < 0 || m->blocks.blocks.len == 0)
		return r;
	return err_set(err, EOPNOTSUPP, "process %d can't be moved: %zu in the way, the first: %.230s", m->options->root,
		       m->blocks.blocks.len, m->blocks.blocks.at[0].what);
}

/* Of the first snapshot, before the target makes anything of it. */
static int preflight(struct migration *m, struct err *err)
{
	struct need_list wanted = { 0 };
	int r = preflight_list(&m->first, look_pages(&m->look), &wanted, err);

	if (r == 0)
		r = ask_target(m, &wanted, err);
	need_list_free(&wanted);
	return r;
}

/* Of the last one: what it has mapped meanwhile. */
static int preflight_later(struct migration *m, struct err *err)
{
	struct need_list wanted = { 0 };
	int r = 0;

	preflight_list_later(&m->first, &m->last, &wanted);
	if (wanted.needs.len > 0)
		r = ask_target(m, &wanted, err);
	need_list_free(&wanted);
	return r;
}

/* The tasks stand for a moment, and nothing is done to them. */
static int check(struct migration *m, struct err *err)
{
	struct urgent urgent;
	int r, released;

	look_anew(m);
	urgent_begin(&urgent);
	r = freeze(m, err);
	if (r == 0)
		r = see(m, &m->first, err);
	released = thaw(m, false, r < 0 ? &(struct err){ 0 } : err);
	urgent_end(&urgent);
	m->result.tasks = (unsigned int)m->first.tasks.len;
	if (r < 0 || released < 0)
		return r < 0 ? r : released;
	return preflight(m, err);
}

/* The stop in which the tasks are armed is the one of the first snapshot. */
static int take_first(struct migration *m, struct err *err)
{
	struct urgent urgent;
	int r, released;

	look_anew(m);
	r = tracking_begin(&m->tracking, &(struct tracking_options){
		.root = m->options->root, .kind = TRACKER_AUTO, .keep = true, .protected = look_protected(&m->look), .to = m->to,
	}, m->store, err);
	if (r < 0)
		return r;
	urgent_begin(&urgent);
	r = freeze(m, err);
	if (r == 0)
		r = tracking_arm(&m->tracking, &m->tree, err);
	if (r == 0)
		r = tracking_take_over(&m->tracking, err);
	if (r == 0)
		r = see(m, &m->first, err);
	for (size_t i = 0; r == 0 && i < m->first.shmems.len; i++) {
		struct moved_object *o;

		r = memory_object(m, &m->first.shmems.at[i], &o, err);
	}
	released = m->still && r == 0 ? 0 : thaw(m, false, r < 0 ? &(struct err){ 0 } : err);
	urgent_end(&urgent);
	return r < 0 ? r : released;
}

static int send_first(struct migration *m, struct stream_out *out, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < m->first.tasks.len; i++)
		r = memory_stage_task(m, out, i, err);
	for (size_t i = 0; r == 0 && i < m->objects.len; i++)
		r = memory_stage_object(out, &m->objects.at[i], &m->untracked, err);
	if (r == 0)
		r = stream_out_images(out, &m->out, err);
	if (r == 0)
		r = stream_out_pages(out, &m->out, &m->first, err);
	return r < 0 ? r : frame_put(&m->out, FRAME_ROUND, NULL, 0, err);
}

static void tell_sent(void *arg, uint64_t bytes)
{
	const struct migration *m = arg;

	m->options->sent(m->options->arg, bytes - m->round_bytes, m->round_total);
}

static void begin_round(struct migration *m)
{
	m->untracked = 0;
	m->round_us = clock_us();
	m->round_bytes = m->out.bytes;
	m->out.limit = m->frozen ? 0 : m->options->bandwidth;
	m->out.sent = m->options->sent ? tell_sent : NULL;
	m->out.sent_arg = m;
}

static void end_round(struct migration *m)
{
	vec_push(&m->rounds, ((struct converge_round){ m->out.bytes - m->round_bytes, clock_us() - m->round_us }));
	m->result.rounds++;
	m->out.limit = 0;
	m->out.sent = NULL;
}

static int stage(struct migration *m, struct err *err)
{
	struct stream_out out;
	struct migrate_say say;
	int r = new_store(m, err);

	if (r == 0)
		m->to = to_directory(m->store);
	if (r == 0)
		r = take_first(m, err);
	if (r < 0)
		return r;
	m->tasks = mem_new(m->first.tasks.len * sizeof(*m->tasks));
	m->result.tasks = (unsigned int)m->first.tasks.len;
	if (!m->still)
		not_urgent();           /* beside the program */
	r = preflight(m, err);
	if (r == 0)
		r = save(m, &m->first, err);
	if (r < 0)
		return r;
	stream_out_init(&out, -1, &m->options->compress, m->store);
	out.threads = THREADS;
	m->round_total = look_pages(&m->look) * PAGE_BYTES;
	begin_round(m);
	r = send_first(m, &out, err);
	stream_out_free(&out);
	if (r == 0)
		r = take_word(m, SAY_STAGED, &say, err);
	if (r == 0)
		end_round(m);
	return r;
}

/* ---- rounds ---- */

static int do_round(struct migration *m, struct err *err)
{
	struct migrate_say say;
	int r = 0;

	begin_round(m);
	for (size_t i = 0; r == 0 && i < m->first.tasks.len; i++) {
		struct moved_task *t = &m->tasks[i];

		if (t->staged->state == TASK_ZOMBIE || t->lost)
			continue;
		t->lost = memory_has_ended(t);
		r = t->lost ? 0 : memory_round(m, t, err);
		t->lost |= r == -ESRCH || memory_has_ended(t);
		if (r < 0 && t->lost && err->code != EPIPE && err->code != ECONNRESET)
			r = 0;          /* it ended on the way */
	}
	for (size_t i = 0; r == 0 && i < m->objects.len; i++)
		r = memory_round_object(m, &m->objects.at[i], true, err);
	if (r == 0)
		r = frame_put(&m->out, FRAME_ROUND, NULL, 0, err);
	if (r == 0)
		r = take_word(m, SAY_ROUND, &say, err);
	if (r == 0)
		end_round(m);
	return r;
}

/* It gets less of the time, and rounds are counted anew; 0: it has the least already, or there is no time for that. */
static int slow_down(struct migration *m, struct err *err)
{
	int r;

	if (m->throttle_level == THROTTLE_LEVELS ||
	    (m->options->max_time_us && clock_us() - m->began_us >= m->options->max_time_us))
		return 0;
	throttle_end(&m->throttle);
	r = throttle_begin(&m->throttle, m->options->root, ++m->throttle_level, err);
	m->throttled_at = m->rounds.len - 1;
	log_info("from now on it runs one part in %u of the time", 1u << m->throttle_level);
	return r < 0 ? r : 1;
}

/* One that is slowed already is slowed more at once, but not given up at once. */
static unsigned int patience(const struct migration *m)
{
	return m->throttle_level == 0 || m->throttle_level == THROTTLE_LEVELS ? PATIENCE : 1;
}

/*
 * The last look before the stop goes through all page tables, 100 ms for some GiB.  What is written meanwhile goes in one
 * more round, if there may be one.
 */
static bool look_took_long(struct migration *m)
{
	uint64_t from_us = clock_us();

	if (m->options->dry_run)
		return false;
	look_anew(m);
	return clock_us() - from_us > LOOK_SHORT_US &&
	       (!m->options->max_rounds || m->rounds.len < m->options->max_rounds) &&
	       (!m->options->max_time_us || clock_us() - m->began_us < m->options->max_time_us);
}

static int rounds(struct migration *m, struct err *err)
{
	struct converge_goal goal = { .max_downtime_us = m->options->max_downtime_us, .max_rounds = m->options->max_rounds,
				      .max_time_us = m->options->max_time_us, .state_us = 2000 };
	bool looked = false;
	int r = 0;

	for (;;) {
		const struct converge_round *last = &m->rounds.at[m->rounds.len - 1];
		struct migrate_round tell = { .bytes = last->bytes, .pages = m->pages, .spent_us = last->spent_us,
					      .dirty_bytes = memory_dirty_bytes(m), .throttle = m->throttle_level };
		enum converge_verdict verdict;

		goal.patience = patience(m);
		verdict = converge(m->rounds.at + m->throttled_at, (unsigned int)(m->rounds.len - m->throttled_at),
				   clock_us() - m->began_us, tell.dirty_bytes, &goal, &tell.downtime_us);
		if (m->options->round)
			m->options->round(m->options->arg, &tell);
		if (verdict == CONVERGE_STUCK && m->options->when_stuck == STUCK_ABORT)
			return err_set(err, ETIME, "it changes its memory too fast: %llu ms of downtime are predicted after %zu rounds",
				       (unsigned long long)(tell.downtime_us / 1000), m->rounds.len);
		if (verdict == CONVERGE_STUCK && m->options->when_stuck == STUCK_THROTTLE) {
			r = slow_down(m, err);
			verdict = r > 0 ? CONVERGE_AGAIN : CONVERGE_STUCK;
		}
		if (r < 0 || (verdict != CONVERGE_AGAIN && (looked || !look_took_long(m))))
			return r;
		looked |= verdict != CONVERGE_AGAIN;
		enter(m, PHASE_ROUND);
		m->round_total = tell.dirty_bytes;
		r = do_round(m, err);
		if (r < 0)
			return r;
	}
}

/* ---- the switch ---- */

static int send_keep(struct migration *m, pid_t pid, const struct taddr_ranges *common, struct err *err)
{
	struct migrate_keep keep = { (uint32_t)pid, (uint32_t)common->len };
	struct iovec parts[2] = { { &keep, sizeof(keep) }, { common->at, common->len * sizeof(*common->at) } };

	_Static_assert(sizeof(struct taddr_range) == sizeof(struct migrate_range), "they go as they are");
	return frame_put(&m->out, FRAME_KEEP, parts, common->len ? 2 : 1, err);
}

static bool same_file(const struct migration *m, const struct vma *was, const struct vma *is)
{
	const struct file *a = snapshot_file(&m->first, (uint32_t)was->object), *b = snapshot_file(&m->last, (uint32_t)is->object);

	return was->status & VMA_ANON_PRIVATE || (a && b && a->dev == b->dev && a->ino == b->ino);
}

/* The target knows files by their names; here we see that another one has got the name. */
static void common_of(const struct migration *m, const struct task *was, const struct task *now, struct taddr_ranges *out)
{
	size_t kept = 0;

	common_mm(&m->first, was, &m->last, now, out);
	for (size_t i = 0; i < out->len; i++)
		if (same_file(m, memory_vma_at(was, out->at[i].start), memory_vma_at(now, out->at[i].start)))
			out->at[kept++] = out->at[i];
	out->len = kept;
}

static int send_keeps(struct migration *m, struct taddr_ranges *common, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < m->last.tasks.len; i++) {
		const struct task *now = &m->last.tasks.at[i];
		const struct moved_task *t = memory_task(m, now->pid);

		if (t && now->state != TASK_ZOMBIE)
			common_of(m, t->staged, now, &common[i]);
		r = send_keep(m, now->pid, &common[i], err);
	}
	return r;
}

static int state(struct migration *m, struct err *err)
{
	struct stream_out images;
	int r = see(m, &m->last, err);

	if (r == 0)
		r = preflight_later(m, err);
	if (r == 0)
		r = save(m, &m->last, err);
	if (r < 0)
		return r;
	stream_out_init(&images, -1, &m->options->compress, m->store);
	r = stream_out_images(&images, &m->out, err);
	stream_out_free(&images);
	return r;
}

static int last(struct migration *m, struct taddr_ranges *common, struct err *err)
{
	int r = send_keeps(m, common, err);

	memory_ahead_end(m);
	for (size_t i = 0; r == 0 && i < m->last.shmems.len; i++) {
		struct moved_object *o;

		r = memory_object(m, &m->last.shmems.at[i], &o, err);
		if (r == 0)
			r = memory_round_object(m, o, false, err);
	}
	for (size_t i = 0; r == 0 && i < m->last.tasks.len; i++)
		if (m->last.tasks.at[i].state != TASK_ZOMBIE)
			r = memory_last(m, &m->last.tasks.at[i], &common[i], err);
	return r < 0 ? r : frame_put(&m->out, FRAME_LAST, NULL, 0, err);
}

/* From here on they stay stopped if ferry dies: only the target knows then whether they may run. */
static int brake(struct migration *m, struct err *err)
{
	m->braked = true;
	for (size_t i = 0; i < m->tree.tasks.len; i++)
		if (!m->tree.tasks.at[i].zombie && m->tree.tasks.at[i].stop_signal == 0 && kill(m->tree.tasks.at[i].pid, SIGSTOP) < 0)
			return err_sys(err, "stop task %d", m->tree.tasks.at[i].pid);
	return 0;
}

/* The tasks of this side have nobody's word. */
static int leave_stopped(struct migration *m, const struct err *why, struct err *err)
{
	struct err told = *why;

	thaw(m, true, &(struct err){ 0 });
	return err_set(err, EOWNERDEAD, "%s; whether process %d runs at the target nobody knows: here it is stopped. If it does not run "
		       "there: ferry resume -t %d, else: ferry kill -t %d", told.text, m->options->root, m->options->root,
		       m->options->root);
}

/*
 * In pieces: an exit that frees some GiB at once holds up other programs of the machine (160 ms of 4 GiB in a guest). Of another
 * process since Linux 6.13; before, it all goes with the exit.
 */
static void empty_task(const struct task *t)
{
	own_fd pidfd = -1;
	struct err err;

	if (t->state == TASK_ZOMBIE || sys_pidfd_open(t->pid, 0, &pidfd, &err) < 0)
		return;
	for (size_t i = 0; i < t->mm.vmas.len; i++) {
		const struct vma *v = &t->mm.vmas.at[i];

		for (taddr at = v->start; v->status & VMA_ANON_PRIVATE && at < v->end; at += PIECE) {
			struct iovec piece = { (void *)(uintptr_t)at, v->end - at < PIECE ? v->end - at : PIECE };

			if (process_madvise(pidfd, &piece, 1, MADV_DONTNEED, 0) < 0 && errno == EINVAL)
				return;
		}
	}
}

static void end_tree(struct migration *m)
{
	for (size_t i = 0; i < m->last.tasks.len; i++)
		empty_task(&m->last.tasks.at[i]);
	freeze_kill(&m->tree);
	m->frozen = false;
	for (size_t i = 0; i < m->tree.tasks.len; i++)
		for (size_t k = m->tree.tasks.at[i].tids.len; k-- > 0;)
			while (waitpid(m->tree.tasks.at[i].tids.at[k], NULL, __WALL) < 0 && errno == EINTR)
				;
}

static int commit(struct migration *m, struct err *err)
{
	struct migrate_say say;
	struct err why, left;
	uint64_t from = clock_us();
	int r = brake(m, err);

	if (r < 0)
		return r;
	enter(m, PHASE_COMMIT);
	r = frame_put(lanes_first_out(&m->lanes, &m->out), FRAME_COMMIT, NULL, 0, &why);
	if (m->transport->timeout_ms > 0)
		m->transport->timeout_ms += LONGER_MS;
	if (r == 0)
		r = take_word(m, SAY_RUNS, &say, &why);
	else if (take_word(m, SAY_RUNS, &say, &left) == -EREMOTEIO) {   /* it had given up before */
		why = left;
		r = -EREMOTEIO;
	}
	if (r == -EREMOTEIO) {          /* it says itself that it has nothing */
		*err = why;
		return r;
	}
	if (r < 0)
		return leave_stopped(m, &why, err);
	m->result.go_us = clock_us() - from;
	m->result.downtime_us = clock_us() - m->freeze_us;
	enter(m, PHASE_DONE);
	return m->options->leave_stopped ? thaw(m, true, err) : 0;
}

static int switch_over(struct migration *m, struct taddr_ranges *common, struct err *err)
{
	struct migrate_say say;
	uint64_t at_us = clock_us(), now_us;
	int r = state(m, err);

	now_us = clock_us();
	m->result.state_us = now_us - at_us;
	enter(m, PHASE_LAST);
	if (r == 0)
		r = last(m, common, err);
	at_us = clock_us();
	m->result.last_us = at_us - now_us;
	enter(m, PHASE_READY);
	if (r == 0)
		r = take_word(m, SAY_READY, &say, err);
	m->result.restore_us = clock_us() - at_us;
	return r < 0 ? r : commit(m, err);
}

static int say_alive(void *arg, struct err *err)
{
	struct migration *m = arg;

	return frame_put(&m->out, FRAME_ALIVE, NULL, 0, err);
}

static int bring_files(struct migration *m, struct err *err)
{
	int third_ms = m->transport->timeout_ms / 3;
	const struct migrate_alive alive = { say_alive, m, third_ms < ALIVE_MS ? third_ms : ALIVE_MS };

	return m->options->files ? m->options->files(m->options->files_arg, &alive, err) : 0;
}

static int freeze_and_switch(struct migration *m, struct err *err)
{
	struct taddr_ranges *common;
	struct urgent urgent;
	int r;

	throttle_end(&m->throttle);
	urgent_begin(&urgent);
	enter(m, PHASE_FREEZE);
	m->freeze_us = clock_us();
	r = freeze(m, err);
	m->result.freeze_us = clock_us() - m->freeze_us;
	if (r == 0)
		r = bring_files(m, err);
	enter(m, PHASE_STATE);
	common = mem_new((m->tree.tasks.len + 1) * sizeof(*common));
	if (r == 0 && !m->still)
		memory_ahead_begin(m);
	if (r == 0)
		r = switch_over(m, common, err);
	memory_ahead_end(m);
	urgent_end(&urgent);
	if (r == 0 && m->frozen)        /* they run there; here nobody waits for that any more */
		end_tree(m);
	for (size_t i = 0; i < m->last.tasks.len; i++)
		vec_free(&common[i]);
	free(common);
	return r;
}

/* ---- all of it ---- */

/* All of a stage. */
static void forget(struct migration *m)
{
	throttle_end(&m->throttle);
	m->throttle_level = 0;
	m->throttled_at = 0;
	for (size_t i = 0; m->tasks && i < m->first.tasks.len; i++)
		memory_task_free(&m->tasks[i]);
	free(m->tasks);
	m->tasks = NULL;
	for (size_t i = 0; i < m->objects.len; i++)
		memory_object_free(&m->objects.at[i]);
	vec_free(&m->objects);
	vec_free(&m->rounds);
	tracking_free(&m->tracking);
	m->tracking = (struct tracking){ 0 };
	snapshot_free(&m->first);
	snapshot_free(&m->last);
	m->first = m->last = (struct snapshot){ 0 };
	destination_free(m->to);
	m->to = NULL;
}

static void migration_free(struct migration *m)
{
	thaw(m, false, &(struct err){ 0 });
	lanes_close(&m->lanes);
	forget(m);
	vec_free(&m->calls);
	look_free(&m->look);
	freeze_free(&m->tree);
	vec_free(&m->blocks.blocks);
	store_close(m->store);
}

static int stage_and_switch(struct migration *m, struct err *err)
{
	int r;

	enter(m, PHASE_STAGE);
	r = stage(m, err);
	if (r == 0 && !m->still)
		r = rounds(m, err);
	if (r < 0 || m->options->dry_run)
		return r;
	return freeze_and_switch(m, err);
}

/*
 * ESTALE: the tree has changed in a way that what was staged can't follow (tasks have got another parent, say).  It is staged
 * anew, and, when that is of no use, once more while it stands: then nothing changes.
 */
static int run(struct migration *m, struct err *err)
{
	int r = hello(m, err);

	if (r == 0 && m->options->check)
		return check(m, err);
	if (r == 0)
		r = bring_files(m, err);
	for (unsigned int tries = 0; r == 0; tries++) {
		r = stage_and_switch(m, err);
		if (r != -ESTALE || m->still)
			break;
		log_info("%s: it is staged anew", err->text);
		m->still = tries + 1 == RUNNING_TRIES;
		if (!m->still)
			r = thaw(m, false, err);
		forget(m);
		r = r == -ESTALE ? 0 : r;
	}
	return r;
}

int migrate_send(const struct migrate_options *options, struct transport *t, struct migrate_result *ret, struct err *err)
{
	struct migration m = { .options = options, .transport = t, .began_us = clock_us() };
	int r;

	enter(&m, PHASE_HELLO);
	r = run(&m, err);
	if (r < 0 && r != -EOWNERDEAD) {
		(void)thaw(&m, false, &(struct err){ 0 });      /* they don't wait for the reason */
		r = failed(&m, err);
	}
	m.result.total_us = clock_us() - m.began_us;
	m.result.bytes = m.out.bytes;
	m.result.pages = m.pages;
	migration_free(&m);
	if (r == 0 && options->dry_run)
		transport_drain(t, UNDONE_MS);
	if (r == 0)
		*ret = m.result;
	return r;
}
