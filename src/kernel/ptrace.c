/* SPDX-License-Identifier: Apache-2.0 */
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "kernel/ptrace.h"

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

int ptrace_seize(pid_t tid, unsigned long options, struct err *err)
{
	if (ptrace(PTRACE_SEIZE, tid, NULL, options) < 0)
		return err_sys(err, "seize thread %d", tid);
	return 0;
}

int ptrace_set_options(pid_t tid, unsigned long options, struct err *err)
{
	if (ptrace(PTRACE_SETOPTIONS, tid, NULL, options) < 0)
		return err_sys(err, "set options of thread %d", tid);
	return 0;
}

int ptrace_interrupt(pid_t tid, struct err *err)
{
	if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
		return err_sys(err, "interrupt thread %d", tid);
	return 0;
}

int ptrace_wait(pid_t tid, struct ptrace_stop *ret_stop, int *ret_status, struct err *err)
{
	int status;
	pid_t got;

	do
		got = waitpid(tid, &status, __WALL);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return err_sys(err, "wait for thread %d", tid);
	if (ret_status)
		*ret_status = status;
	if (!WIFSTOPPED(status))
		return err_set(err, ESRCH, "thread %d died (status %#x)", tid, (unsigned int)status);
	*ret_stop = (struct ptrace_stop){ .signal = WSTOPSIG(status), .event = status >> 16 };
	return 0;
}

int ptrace_get_regs(pid_t tid, struct user_regs_struct *regs, struct err *err)
{
	if (ptrace(PTRACE_GETREGS, tid, NULL, regs) < 0)
		return err_sys(err, "get registers of thread %d", tid);
	return 0;
}

int ptrace_set_regs(pid_t tid, const struct user_regs_struct *regs, struct err *err)
{
	if (ptrace(PTRACE_SETREGS, tid, NULL, regs) < 0)
		return err_sys(err, "set registers of thread %d", tid);
	return 0;
}

int ptrace_get_xsave(pid_t tid, void *buf, size_t size, size_t *ret_len, struct err *err)
{
	struct iovec iov = { buf, size };

	if (ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &iov) < 0)
		return err_sys(err, "get extended registers of thread %d", tid);
	*ret_len = iov.iov_len;
	return 0;
}

int ptrace_set_xsave(pid_t tid, const void *buf, size_t len_bytes, struct err *err)
{
	struct iovec iov = { (void *)(uintptr_t)buf, len_bytes };

	if (ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, &iov) < 0)
		return err_sys(err, "set extended registers of thread %d", tid);
	return 0;
}

int ptrace_get_sigmask(pid_t tid, uint64_t *ret_mask, struct err *err)
{
	uint64_t mask;

	if (ptrace(PTRACE_GETSIGMASK, tid, sizeof(mask), &mask) < 0)
		return err_sys(err, "get signal mask of thread %d", tid);
	*ret_mask = mask;
	return 0;
}

int ptrace_set_sigmask(pid_t tid, uint64_t mask, struct err *err)
{
	if (ptrace(PTRACE_SETSIGMASK, tid, sizeof(mask), &mask) < 0)
		return err_sys(err, "set signal mask of thread %d", tid);
	return 0;
}

int ptrace_get_rseq(pid_t tid, struct ptrace_rseq *ret_rseq, struct err *err)
{
	struct ptrace_rseq rseq = { 0 };

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof(rseq), &rseq) < 0)
		return err_sys(err, "get rseq of thread %d", tid);
	*ret_rseq = rseq;
	return 0;
}

int ptrace_go(int request, pid_t tid, int signal, struct err *err)
{
	if (ptrace(request, tid, NULL, (long)signal) < 0)
		return err_sys(err, "resume thread %d", tid);
	return 0;
}

int ptrace_detach(pid_t tid, struct err *err)
{
	if (ptrace(PTRACE_DETACH, tid, NULL, NULL) < 0 && errno != ESRCH)
		return err_sys(err, "let go of thread %d", tid);
	return 0;
}
