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
 * Interrupted calls: `restart` are the registers with which the call is made
 * again in another life (the image); a live task is given back to the kernel
 * as it was, which knows the time left, and whether a signal ends the call.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/user.h>

#include "base/err.h"
#include "inject/chain.h"
#include "inject/gadgets.h"
#include "inject/script.h"
#include "kernel/proc_map.h"
#include "kernel/ptrace.h"

#define QUESTION_OUT_BYTES 1024u
_Static_assert(CHAIN_OUT_BYTES <= QUESTION_OUT_BYTES, "a chain's answers fit");

/* An answer that was asked for ahead of time: what the call returned, and what it wrote. */
struct answer {
	uint64_t nr, arg0;
	int64_t value;
	uint8_t out[32];
};

struct subject {
	pid_t tid;
	struct user_regs_struct seen;           /* as they stood */
	struct user_regs_struct restart;        /* as they go into an image */
	uint32_t interrupted;                   /* the kernel's code (512..514) of the call that `restart` makes again; 0: none */
	bool call_unknown;                      /* it is in a call made again by restart_syscall, that hides which one */
	uint64_t mask;
	struct ptrace_rseq rseq;
	size_t xsave_len;                       /* up to the last component in use */
	uint8_t *xsave;                         /* owned; standard form */

	/* between open and close */
	struct gadgets gadgets;
	struct user_regs_struct heal, back;     /* through the frame; what a live task is given back */
	taddr frame, out, saved_at;
	uint8_t *saved;                         /* owned: the bytes that the frame covers */
	size_t saved_len;
	bool open, stopped;                     /* stopped: a SIGSTOP came meanwhile, to be sent again */
	bool after_chain;                       /* it stands behind a chain, not before the frame */
	bool at_call;                           /* it stands at the end of a question's system call */
	struct answer *kept;                    /* owned */
	size_t kept_len;
	const struct answer *replay;            /* the kept one that was looked up last; NULL: a real one was asked */
};

/* Reads registers, mask and rseq of a stopped thread and works out `restart`.  Changes nothing. */
int subject_see(pid_t tid, struct subject *ret_subject, struct err *err);
/* Which call that is, told by who saw it begin; before subject_open(). */
void subject_in_call(struct subject *s, uint64_t nr);

/*
 * Lays the frame: in dead stack below the thread's stack pointer, or, where
 * there is none, at the far end of the stack of another one.  A main stack
 * that ends there is made to grow.  `all` are the
 * task's threads, seen and stopped, the leader first; some of them may be open.
 * ENOSPC: no dead stack anywhere, or no more of it until one is closed.  On
 * failure the thread is as it was.
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

/* Asks all at once, each its subject (each subject at most once in a call).  A stop costs about 8 us, and those of
 * different threads overlap: many at once take half the time that one after another does. */
int question_ask(struct question *q, size_t count, struct err *err);

/* A question for everybody; out_arg says which argument is where the answer goes (0: none does; 1 or none for those
 * that go by chains, which have two arguments). */
struct standing_question {
	uint64_t nr, arg[6];
	unsigned int out_arg;
};

/* Asks `count` open subjects all `n` questions.  question_ask_one() and question_read() find them answered. */
int question_ask_ahead(struct subject *const *subjects, size_t count, const struct standing_question *q, size_t n,
		       struct err *err);

/* One question to one subject, or what was asked ahead: known by nr and its first argument. */
int question_ask_one(struct subject *s, uint64_t nr, const uint64_t arg[6], int64_t *ret_answer, struct err *err);
/*
 * The thread makes a descriptor by a call of one argument, ferry takes it, the thread closes it.  By a chain, where there is
 * one, it is closed whatever happens to ferry; else a death between the two calls leaves it in the task.
 * The subject is a leader.  -errno also where the call answers so.
 */
int question_take_fd(struct subject *s, uint64_t nr, uint64_t arg, int *ret_fd, struct err *err);
/* Reads what the last question to this subject left at its `out` + offset. */
int question_read(const struct subject *s, size_t offset, void *buf, size_t len_bytes, struct err *err);
