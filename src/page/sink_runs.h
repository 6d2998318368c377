/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sink_runs.h - changed pages of a task or of a shared memory object, on their way to who has the others.
 *
 * Pages whose changes no tracker tells (run.compare) are remembered by a checksum, and sent when it is another one.
 */
#pragma once
#include <pthread.h>

#include "page/runs.h"
#include "page/runs_frame.h"
#include "wire/codec.h"

/* Checksums of pages by their address: open addressing, grows.  All zero: empty. */
struct sum_set { struct sum_entry { uint64_t page, sum; } *at; size_t used, cap; };
/* Was it seen with this sum?  From now on it was. */
bool sum_set_same(struct sum_set *s, uint64_t page, uint64_t sum);
void sum_set_forget(struct sum_set *s, uint64_t page);
void sum_set_free(struct sum_set *s);

struct sink_runs {
	struct page_sink base;
	struct frame_out *out;          /* the caller's */
	enum runs_owner owner;
	uint64_t id;
	struct codec_choice choice;
	struct sum_set *seen;           /* the caller's; NULL: nothing is compared */
	pthread_mutex_t lock;           /* over out, seen */
	uint64_t pages;                 /* that were sent */
};

void sink_runs_init(struct sink_runs *s, struct frame_out *out, enum runs_owner owner, uint64_t id,
		    const struct codec_choice *choice, struct sum_set *seen);
/* Pages that are there no more. */
int sink_runs_drop(struct sink_runs *s, const struct page_runs *runs, struct err *err);
