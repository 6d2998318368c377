/* SPDX-License-Identifier: Apache-2.0 */
/* states.h - tasks and threads out of a seed, and what it means that two are the same. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/snapshot.h"

/* A task with pid 1000 that some kernel could have had, with `threads` threads (1000, 1001 ...). */
void random_task(struct task *t, unsigned int threads);
void random_seed(uint64_t seed);
uint64_t random_below(uint64_t limit);          /* limit 0: any */
void task_drop(struct task *t);

void same_thread(const struct thread *a, const struct thread *b);
void same_creds(const struct creds *a, const struct creds *b);
void same_queue(const struct signal_queue *a, const struct signal_queue *b);
void same_task(const struct task *a, const struct task *b);     /* threads aside */
