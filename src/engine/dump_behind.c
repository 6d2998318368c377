/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/dump_behind.h"
#include "engine/save.h"

#define WORTH_A_THREAD 4u       /* tasks */

int behind_take_directory(struct behind *b, struct err *err)
{
	bool took = b->took;

	b->took = true;
	return took ? 0 : tracking_take_over(b->tracking, err);
}

static int write_task(struct behind *b, size_t index, struct err *err)
{
	struct task *t = &b->snapshot->tasks.at[index];
	int r = behind_take_directory(b, err);

	if (r == 0 && t->state != TASK_ZOMBIE)
		r = pages_task(&b->pages, index, err);

	LOG_SCOPE("task %d", t->pid);
	if (r == 0)
		r = save_cores(t, b->tracking->store, err);
	for (size_t i = 0; i < t->threads.len; i++)
		free(TAKE_PTR(t->threads.at[i].xsave));         /* the most of what is known of a thread */
	return r;
}

/* 1: *ret_index is the next; 0: there is no more. */
static int take(struct behind *b, size_t *ret_index)
{
	int r;

	pthread_mutex_lock(&b->lock);
	while (b->taken == b->ready.len && !b->end)
		pthread_cond_wait(&b->news, &b->lock);
	r = b->taken < b->ready.len && b->r == 0;
	if (r)
		*ret_index = b->ready.at[b->taken++];
	pthread_mutex_unlock(&b->lock);
	return r;
}

static void *work(void *arg)
{
	struct behind *b = arg;
	size_t index;

	while (take(b, &index)) {
		int r = write_task(b, index, &b->err);

		if (r < 0) {
			pthread_mutex_lock(&b->lock);
			b->r = r;
			pthread_mutex_unlock(&b->lock);
		}
	}
	return NULL;
}

void behind_begin(struct behind *b, struct snapshot *s, struct tracking *tracking, struct store *store,
		  struct reserve *reserve, struct guard *guard, struct progress_meter meter, struct dump_result *result)
{
	pages_begin(&b->pages, s, tracking, store, reserve, guard, meter, result);
	b->snapshot = s;
	b->tracking = tracking;
	b->started = true;
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->news, NULL);
	b->threaded = !guard && s->tasks.len >= WORTH_A_THREAD && pthread_create(&b->thread, NULL, work, b) == 0;
}

void behind_ready(struct behind *b, size_t index)
{
	pthread_mutex_lock(&b->lock);
	vec_push(&b->ready, index);
	pthread_cond_signal(&b->news);
	pthread_mutex_unlock(&b->lock);
}

int behind_end(struct behind *b, bool abandon, struct err *err)
{
	int ended;

	if (!b->started)
		return 0;
	b->started = false;
	if (b->threaded) {
		pthread_mutex_lock(&b->lock);
		b->end = true;
		if (abandon)
			b->taken = b->ready.len;
		pthread_cond_signal(&b->news);
		pthread_mutex_unlock(&b->lock);
		pthread_join(b->thread, NULL);
	} else if (!abandon) {
		b->end = true;
		work(b);
	}
	vec_free(&b->ready);
	ended = pages_end(&b->pages, abandon || b->r < 0, err);
	if (b->r < 0)
		*err = b->err;
	return b->r < 0 ? b->r : ended;
}
