/* SPDX-License-Identifier: Apache-2.0 */
/*
 * question.h - asking a running task what only it can say.
 *
 * A few values (sigaltstack, itimers, some prctls, handlers) are told by the
 * kernel to the task alone.  They are asked for by "frame first", so that the
 * task survives the asker's death at any instant:
 *
 *	subject_open()   a complete rt_sigframe that holds the task's own state is
 *	                 laid in dead stack; then the registers are pointed at
 *	                 rt_sigreturn, and only then are signals blocked.  From
 *	                 here on, whatever happens to ferry, the task returns
 *	                 through the frame to what it was.
 *	question_ask()   at the entry of that sigreturn another call is put in its
 *	                 place, whose return address is rt_sigreturn again.
 *	subject_close()  original mask, registers and stack bytes are put back.
 *
 * The thread is held by ptrace, stopped, before and after.  Questions write
 * their answers to `out`, below the frame, and leave nothing behind.
 *
 * Restarted calls: `restart` are the registers with which the interrupted call
 * is made again in another life (the image); a live task gets restart_syscall,
 * which knows the time left.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/user.h>

#include "base/err.h"
#include "inject/script.h"
#include "kernel/proc_map.h"
#include "kernel/ptrace.h"

#define QUESTION_OUT_BYTES 1024u

/* Two pieces of code that every program has, by which calls are made in it. */
struct gadgets {
	taddr syscall;          /* 0f 05 */
	taddr sigreturn;        /* mov $15, %eax (or %rax); syscall */
};

/* ENOENT: the task has no such code (a static program without handlers). */
int gadgets_find(pid_t pid, const struct proc_maps *maps, struct gadgets *ret_gadgets, struct err *err);

struct subject {
	pid_t tid;
	struct user_regs_struct seen;           /* as they stood */
	struct user_regs_struct restart;        /* as they go into an image */
	uint64_t mask;
	struct ptrace_rseq rseq;
	size_t xsave_len;
	uint8_t *xsave;                         /* owned */

	/* between open and close */
	struct gadgets gadgets;
	struct user_regs_struct heal, back;     /* through the frame; what a live task is given back */
	taddr frame, out, saved_at;
	uint8_t *saved;                         /* owned: the bytes that the frame covers */
	size_t saved_len;
	bool open, stopped;                     /* stopped: a SIGSTOP came meanwhile, to be sent again */
};

/* Reads registers, mask and rseq of a stopped thread and works out `restart`.  Changes nothing. */
int subject_see(pid_t tid, struct subject *ret_subject, struct err *err);

/*
 * Lays the frame: in dead stack below the thread's stack pointer, or, where
 * there is none, at the far end of the stack of another one.  `all` are the
 * task's threads, seen and stopped, the leader first; who borrows must be open
 * alone.  ENOSPC: no dead stack anywhere.  On failure the thread is as it was.
 */
int subject_open(struct subject *s, const struct gadgets *g, const struct proc_maps *maps,
		 const struct subject *all, size_t count, struct err *err);
int subject_close(struct subject *s, struct err *err);
void subject_free(struct subject *s);

struct question {
	struct subject *subject;
	uint64_t nr, arg[6];
	int64_t answer;                         /* what the kernel returned: a value or -errno */
};

/* Asks all at once, each its subject (each subject at most once in a call). */
int question_ask(struct question *q, size_t count, struct err *err);
/* Reads what a question left at subject->out + offset. */
int question_read(const struct subject *s, size_t offset, void *buf, size_t len_bytes, struct err *err);
