/* SPDX-License-Identifier: Apache-2.0 */
/* tasks.h - other tasks for tests: started, waited for, ended. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "../cm.h"

#define TEST_SKIPPED 77         /* as meson understands it */

/*
 * Runs `run` as the first process of a pid namespace with a /proc of its own,
 * where every other pid is free, and returns what it returns; TEST_SKIPPED
 * where that is not allowed here.
 */
int in_pid_namespace(int (*run)(void));

/* A copy of this process that runs `body`; it dies with this one. */
pid_t task_fork(void (*body)(void *arg), void *arg);
/* A program that writes a line when it is ready, and ends when its input does. */
pid_t task_exec(const char *const argv[], int *ret_input_fd);
void task_end(pid_t pid);       /* SIGKILL, reaped */

/* Memory that forked tasks share with this one. */
void *task_board(size_t len_bytes);

/* Wait (at most 20 s, then the test fails) until it is so. */
void until_in_call(pid_t tid, long nr);         /* blocked in that system call */
void until_state(pid_t tid, char state);        /* the letter of /proc/TID/stat */
void until_more(atomic_ulong *counter, unsigned long than);
