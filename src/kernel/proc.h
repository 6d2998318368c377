/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proc.h - reading /proc/PID: the texts, the lists, the small values.
 *
 *	proc.h		opening, whole texts, lists, links, small values
 *	proc_task.h	stat, status, limits, timers
 *	proc_map.h	maps and the VmFlags of smaps
 *	proc_fdinfo.h	the keys of fdinfo
 *
 * Pids and tids are host pids: those of the /proc that this program sees.
 * Texts hold what the task chose (names, paths): they are parsed by rule and
 * anything that breaks the rule is EBADMSG.  A task that is gone is ESRCH,
 * whichever way the kernel says it.
 *
 * Lists belong to the caller (vec_free); they are set on success only.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/vec.h"

struct proc_text { char *at; size_t len, cap; };        /* a VEC: bytes, always with a NUL after the last one */
struct proc_ids { int *at; size_t len, cap; };          /* a VEC: pids or descriptor numbers */

/* The kernel prints (and sends) some device numbers in its own form: sdev in fdinfo, vfs_dev in unix diag. */
static inline dev_t proc_kdev(uint32_t kdev)
{
	return makedev(kdev >> 20, kdev & 0xfffff);
}

/* O_PATH descriptor of /proc/PID: names this very task also when its pid is used again. */
int proc_open(pid_t pid, int *ret_fd, struct err *err);

/* Opens /proc/PID/NAME, flags with O_CLOEXEC added. */
int proc_open_file(pid_t pid, const char *name, int flags, int *ret_fd, struct err *err);

/* All of /proc/PID/NAME into buf, NUL-terminated; returns its length in bytes, -E2BIG when size - 1 is less. */
int proc_read(pid_t pid, const char *name, char *buf, size_t size, struct err *err);

/* All of /proc/PID/NAME; *text is emptied first and its space used again. */
int proc_read_all(pid_t pid, const char *name, struct proc_text *text, struct err *err);

/* Where the link /proc/PID/NAME ("fd/3", "cwd", "root", "exe", "ns/net") points to, NUL-terminated; returns its length. */
int proc_link(pid_t pid, const char *name, char *buf, size_t size, struct err *err);

/* All sorted, smallest first. */
int proc_threads(pid_t pid, struct proc_ids *ret_tids, struct err *err);
int proc_children(pid_t pid, struct proc_ids *ret_pids, struct err *err);       /* of all its threads */
int proc_fds(pid_t pid, struct proc_ids *ret_fds, struct err *err);

/* Every process in /proc (no threads). */
int proc_pids(struct proc_ids *ret_pids, struct err *err);

/* The raw name, up to 15 bytes of anything but NUL, and a NUL.  tid 0: of the process. */
int proc_comm(pid_t pid, pid_t tid, char ret_comm[16], struct err *err);
int proc_oom_score_adj(pid_t pid, int *ret_score, struct err *err);             /* -1000 to 1000 */
int proc_set_oom_score_adj(pid_t pid, int score, struct err *err);              /* to lower it takes CAP_SYS_RESOURCE */
int proc_loginuid(pid_t pid, uint32_t *ret_uid, struct err *err);               /* UINT32_MAX: never set */
int proc_personality(pid_t pid, uint32_t *ret_persona, struct err *err);

/* The auxiliary vector: returns how many words (pairs times two) went to `words`, -E2BIG when max is less. */
int proc_auxv(pid_t pid, uint64_t *words, size_t max, struct err *err);

/* The namespace that /proc/PID/ns/NAME names: equal pairs, same namespace. */
int proc_ns_id(pid_t pid, const char *name, dev_t *ret_dev, ino_t *ret_ino, struct err *err);

/* The number behind `before` at the begin of a line of a file that is not of a process: "/proc/meminfo", "MemFree:". 0: there is none. */
uint64_t proc_number(const char *path, const char *before);
