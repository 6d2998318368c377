/* SPDX-License-Identifier: Apache-2.0 */
#include "asked.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "kernel/sys.h"

int setup(void **state)
{
	struct asked *a = mem_new(sizeof(*a));

	a->board = task_board(sizeof(*a->board));
	*state = a;
	return pipe(a->board->pipe_fds);
}

int teardown(void **state)
{
	struct asked *a = *state;

	if (a->pid)
		task_end(a->pid);
	proc_maps_free(&a->maps);
	close(a->board->pipe_fds[0]);
	close(a->board->pipe_fds[1]);
	munmap(a->board, sizeof(*a->board));
	free(a);
	return 0;
}

void start(struct asked *a, void (*body)(void *))
{
	a->pid = task_fork(body, a->board);
}

void hold(struct asked *a, pid_t tid)
{
	struct ptrace_stop stop;

	OK(&a->err, ptrace_seize(tid, PTRACE_O_TRACESYSGOOD, &a->err));
	OK(&a->err, ptrace_interrupt(tid, &a->err));
	OK(&a->err, ptrace_wait(tid, &stop, NULL, &a->err));
}

void look(struct asked *a)
{
	OK(&a->err, proc_maps(a->pid, &a->maps, &a->err));
	OK(&a->err, gadgets_find(a->pid, &a->maps, &a->gadgets, &a->err));
}

int open_one(struct asked *a, struct subject *s)
{
	return subject_open(s, &a->gadgets, &a->maps, s, 1, &a->err);
}

int64_t ask(struct asked *a, struct subject *s, uint64_t nr, uint64_t a0, uint64_t a1)
{
	struct question q = { .subject = s, .nr = nr, .arg = { a0, a1 } };

	OK(&a->err, question_ask(&q, 1, &a->err));
	return q.answer;
}

/* See, open, ask twice, close. */
void ask_all(struct asked *a, struct subject *s)
{
	int32_t subreaper = -1;

	OK(&a->err, open_one(a, s));
	assert_int_equal(ask(a, s, SYS_getpid, 0, 0), a->pid);
	assert_int_equal(ask(a, s, SYS_prctl, PR_GET_CHILD_SUBREAPER, s->out + 1000), 0);
	OK(&a->err, question_read(s, 1000, &subreaper, sizeof(subreaper), &a->err));
	assert_int_equal(subreaper, 0);
	assert_int_equal(ask(a, s, SYS_close, 98765, 0), -EBADF);
	OK(&a->err, subject_close(s, &a->err));
}

const struct proc_map *stack_of(struct asked *a)
{
	for (size_t i = 0; i < a->maps.len; i++)
		if (strcmp(a->maps.at[i].name, "[stack]") == 0)
			return &a->maps.at[i];
	fail_msg("no [stack]");
	return NULL;
}

struct image *image_of(struct asked *a, pid_t tid)
{
	struct image *i = mem_new(sizeof(*i));
	const struct proc_map *m = stack_of(a);

	OK(&a->err, ptrace_get_regs(tid, &i->regs, &a->err));
	OK(&a->err, ptrace_get_sigmask(tid, &i->mask, &a->err));
	OK(&a->err, ptrace_get_xsave(tid, i->xsave, sizeof(i->xsave), &i->xsave_len, &a->err));
	i->stack = mem_new(m->end - m->start);
	OK(&a->err, sys_read_memory(tid, m->start, i->stack, m->end - m->start, &a->err));
	return i;
}

void same_image(struct asked *a, const struct image *x, const struct image *y)
{
	const struct proc_map *m = stack_of(a);

	assert_int_equal(x->mask, y->mask);
	assert_int_equal(x->xsave_len, y->xsave_len);
	assert_memory_equal(x->xsave, y->xsave, x->xsave_len);
	assert_memory_equal(x->stack, y->stack, m->end - m->start);
}

void image_free(struct image *i)
{
	free(i->stack);
	free(i);
}

void *second_thread(void *arg)
{
	struct board *b = arg;

	atomic_store(&b->other_tid, (unsigned long)gettid());
	for (;;)
		pause();
	return NULL;
}
