/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "base/log.h"
#include "base/own.h"
#include "engine/dump_behind.h"
#include "engine/save.h"

#define WORTH_A_THREAD 4u       /* tasks */

static int write_task(struct behind *b, size_t index, struct err *err)
{
	struct task *t = &b->snapshot->tasks.at[index];
	int r = t->state == TASK_ZOMBIE ? 0 : pages_task(&b->pages, index, err);

	LOG_SCOPE("task %d", t->pid);
	if (r == 0)
		r = save_cores(t, b->pages.store, err);
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

int behind_begin(struct behind *b, struct snapshot *s, struct store *store, struct reserve *reserve,
		 struct progress_meter meter, struct dump_result *result, struct err *err)
{
	int r = pages_begin(&b->pages, s, store, reserve, meter, result, err);

	if (r < 0)
		return r;
	b->snapshot = s;
	b->started = true;
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->news, NULL);
	b->threaded = s->tasks.len >= WORTH_A_THREAD && pthread_create(&b->thread, NULL, work, b) == 0;
	return 0;
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
