/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate.h - a running tree moves to another machine, and hardly notices.
 *
 *	source                                          target
 *	hello    see migrate_hello.h        <------->
 *	check    what the tree needs         <------->   what there is of it (preflight.h)
 *	stage    a first snapshot, all images  ----->   tasks-to-be (vessels), mapped as the tasks are
 *	         all pages, while they run     ----->   filled in place
 *	round    pages that changed meanwhile  ----->   in place; again and again (converge.h)
 *	freeze   the tasks stand
 *	state    a second snapshot, and what   ----->   vessels are made to match; files
 *	         memory is still the same one
 *	last     the last pages                ----->   in place; threads, all that the kinds set
 *	ready                               <-------    everything is there
 *	commit   the brake is on; go           ----->   they run
 *	done     the tasks are ended        <-------    they run
 *
 * Frames (wire/frame.h) both ways.  The stage's pages are a stream's (stream.h); later ones are runs (page/runs_frame.h).
 * When the tree has changed in a way that vessels can't follow, the target ends them and says so, and all begins again with
 * a stage: of the running tree, and at last of one that stands.
 * Until commit is sent the source resumes its tasks whatever happens.  Then it waits for the target's word; if
 * the link dies in between the tasks stay stopped, and somebody who knows has to say what becomes of them.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "engine/phase.h"
#include "engine/preflight.h"
#include "wire/codec.h"
#include "wire/transport.h"

/* Which of its memory a task still has since the stage; a list of them follows. */
struct migrate_keep { uint32_t pid, ranges; };
struct migrate_range { uint64_t start, end; };

/* SAY_STALE, instead of SAY_READY: what was staged can't follow; stage it anew. */
enum migrate_word { SAY_STAGED, SAY_ROUND, SAY_READY, SAY_RUNS, SAY_FAILED, SAY_STALE, SAY_COUNT };

struct migrate_say {
	uint32_t word;                  /* enum migrate_word */
	uint32_t code;                  /* errno, of SAY_FAILED */
	uint64_t restore_us;            /* SAY_READY, SAY_RUNS: since all had come */
	char text[360];
};

struct migrate_round { uint64_t bytes, pages, spent_us, dirty_bytes, downtime_us; unsigned int throttle; };

enum migrate_stuck { STUCK_SWITCH, STUCK_ABORT, STUCK_THROTTLE };

/* Who takes long says so as often as that, or the target gives up.  EPIPE, say: nobody is there any more. */
struct migrate_alive { int (*say)(void *arg, struct err *err); void *arg; int every_ms; };

struct migrate_options {
	pid_t root;
	bool shell_job;
	unsigned int timeout_s;         /* for freezing */
	uint64_t max_downtime_us, max_time_us;
	unsigned int max_rounds;
	enum migrate_stuck when_stuck;
	uint64_t bandwidth;             /* of the rounds, bytes a second; 0: no limit */
	struct codec_choice compress;
	bool dry_run;                   /* all but the switch */
	bool leave_stopped;             /* the source's tasks stay, stopped, when the others run */
	bool check;                     /* only ask whether it could be moved */
	unsigned int channels;          /* connections for what is sent, beside the first one; up to FRAME_LANES_MAX */
	/* with channels: connects to another port of who is at the other end of the first */
	int (*channel)(void *arg, const struct transport *first, unsigned int port, struct transport *ret, struct err *err);
	void *channel_arg;
	/* optional: told of the phase that begins, and of each round that is done */
	void (*phase)(void *arg, enum phase phase);
	void (*round)(void *arg, const struct migrate_round *round);
	void (*sent)(void *arg, uint64_t bytes, uint64_t total);        /* of the round; the total may be a guess */
	void (*blocked)(void *arg, const struct preflight_block *block);        /* and of all that is in the way */
	void *arg;
	/* optional: brings along what lies beside the tasks; once before they are staged, and once while they stand still */
	int (*files)(void *arg, const struct migrate_alive *alive, struct err *err);
	void *files_arg;
};

struct migrate_result {
	unsigned int tasks, rounds;
	uint64_t bytes, pages;          /* bytes: on the wire */
	uint64_t total_us, downtime_us;
	uint64_t freeze_us, state_us, last_us, restore_us, go_us;       /* of the downtime */
};

/* EOWNERDEAD: the link died when neither side could know; the tasks here stay stopped. */
int migrate_send(const struct migrate_options *options, struct transport *t, struct migrate_result *ret, struct err *err);

struct receive_options {
	bool shell_job;
	bool detached;                  /* the root is init's then */
	/* optional: where channels come in; *ret_fd -1: nowhere, on this kind of connection */
	int (*listen)(void *arg, const struct transport *first, int *ret_fd, unsigned int *ret_port, struct err *err);
	int (*shake_hands)(void *arg, struct transport *t, struct err *err);    /* with listen */
	void *channel_arg;
	void (*phase)(void *arg, enum phase phase);
	void *arg;
};

struct receive_result {
	pid_t root;
	unsigned int tasks, rounds;
	uint64_t pages, bytes, restore_us, total_us;
};

/* The root is our child and runs when this returns 0.  1: the source only asked, and will be back. */
int migrate_receive(const struct receive_options *options, struct transport *t, struct receive_result *ret, struct err *err);
