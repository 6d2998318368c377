/* SPDX-License-Identifier: Apache-2.0 */
/*
 * asked.h - a task that is asked, for tests of questions: forked with a board that both see, held, looked at and asked.
 *
 * setup() makes one (cmocka's state), teardown() ends its task and frees it. An image is all bytes of a thread, to be compared.
 */
#pragma once
#include <stdint.h>
#include <sys/user.h>

#include "inject/question.h"
#include "tasks.h"

/* What a task tells and is told. */
struct board {
	atomic_ulong beat;              /* rises while it lives */
	atomic_ulong wrong;             /* what was not as it should */
	atomic_ulong signals;           /* that its handler saw */
	atomic_ulong go;
	atomic_ulong at, other_tid;
	atomic_uint word;               /* a futex */
	int pipe_fds[2];
	long result;
	int result_errno;
	uint64_t took_us;
};

struct asked {
	struct board *board;
	pid_t pid;
	struct proc_maps maps;
	struct gadgets gadgets;
	struct err err;
};

struct image { struct user_regs_struct regs; uint64_t mask; size_t xsave_len; uint8_t xsave[PTRACE_XSAVE_MAX], *stack; };

int setup(void **state);
int teardown(void **state);
void start(struct asked *a, void (*body)(void *));
void hold(struct asked *a, pid_t tid);
void look(struct asked *a);
int open_one(struct asked *a, struct subject *s);
int64_t ask(struct asked *a, struct subject *s, uint64_t nr, uint64_t a0, uint64_t a1);
/* See, open, ask twice, close. */
void ask_all(struct asked *a, struct subject *s);
const struct proc_map *stack_of(struct asked *a);
struct image *image_of(struct asked *a, pid_t tid);
void same_image(struct asked *a, const struct image *x, const struct image *y);
void image_free(struct image *i);
void *second_thread(void *arg);
