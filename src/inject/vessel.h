/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vessel.h - a task-to-be: final pid, emptied address space, held by ptrace.
 *
 *	vessel_create()      the root: cloned from ferry with its pid
 *	vessel_adopt()       a child: cloned by its parent's script (CLONE_PTRACE)
 *	vessel_run()         scripts: mappings, descriptors, threads, attributes
 *	vessel_leave()       the interpreter is unmapped: nothing of ours is left
 *	registers, masks, ptrace_detach() by the caller
 *
 * A vessel runs nothing but the interpreter (pie/), which lies in a mapping of
 * its own, the blob, at an address that is free in every task of the tree, so
 * that children inherit it.  PTRACE_O_EXITKILL: when ferry dies, so do all its
 * vessels.  All signals but SIGTRAP are blocked in a vessel; what is sent to it
 * from outside waits.
 *
 * The tracer is the thread that created it: all functions are called by it.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "inject/script.h"
#include "kernel/proc_map.h"

#define VDSO_PARTS_MAX 6u

/* The vdso and its data pages ([vvar], [vvar_vclock] ...): they move together. */
struct vdso {
	unsigned int parts;
	struct vdso_part { taddr start; uint64_t len_bytes; bool code; } part[VDSO_PARTS_MAX];
};

/* ENOENT when the list has no [vdso]; EBADMSG when the parts do not adjoin. */
int vdso_find(const struct proc_maps *maps, struct vdso *ret_vdso, struct err *err);

/* Where the interpreter lies, the same in every task of a tree. */
struct blob_place {
	taddr at;
	uint64_t len_bytes;
	taddr hop;              /* as much free room as a vdso group needs, for moves onto itself */
};

/* Finds room for tasks of up to `threads` threads that is free in all `ranges`
 * (sorted or not).  ENOMEM when there is none. */
struct taddr_range { taddr start, end; };
int blob_find_place(const struct taddr_range *ranges, size_t count, unsigned int threads,
		    struct blob_place *ret_place, struct err *err);

struct vessel {
	pid_t pid;
	struct blob_place blob;
	struct vdso vdso;       /* where it is now */
	uint64_t insn_offset;   /* of a syscall instruction, from the start of the vdso's code */
	struct script script;   /* the leader's; cleared after each run */
};

/*
 * Clones ferry with the given pid, seizes the clone and puts the blob in.
 * sibling: the clone is a child of ferry's parent (CLONE_PARENT).
 * EEXIST: the pid is taken.  On failure nothing is left.
 */
int vessel_create(pid_t pid, bool sibling, const struct blob_place *place, struct vessel *ret_vessel,
		  struct err *err);
/* Takes over a child that `parent` (or one like it) has just cloned with CLONE_PTRACE. */
int vessel_adopt(pid_t pid, const struct vessel *parent, struct vessel *ret_vessel, struct err *err);
void vessel_free(struct vessel *v);     /* memory only */

/* Runs the leader's script to its end and clears it. */
int vessel_run(struct vessel *v, struct err *err);
/* Makes sure that so many calls and bytes of data fit behind what is in the script: runs it when they don't. */
int vessel_room(struct vessel *v, size_t ops, size_t data_bytes, struct err *err);

/* Threads: script of the index-th thread (1..), started, and waited for. */
void vessel_thread_script(const struct vessel *v, unsigned int index, struct script *ret_script);
int vessel_start(struct vessel *v, pid_t tid, const struct script *s, struct err *err);
int vessel_wait(struct vessel *v, pid_t tid, const struct script *s, struct err *err);
/* A new thread stands in its first trap: takes note of it and blocks its signals. */
int vessel_catch_thread(pid_t tid, struct err *err);

/* Script steps. */
/* The group's new first address; its span and where its code begins in it must be as they are.  EOPNOTSUPP: the
 * program was dumped with another kernel's vdso. */
int vessel_move_vdso(struct vessel *v, taddr to, uint64_t span_bytes, uint64_t code_offset, struct err *err);
uint64_t vdso_span(const struct vdso *v);
uint64_t vdso_code_offset(const struct vdso *v);

/* One call by ptrace alone, no blob needed; ret_value is what the kernel returned. */
int vessel_call(struct vessel *v, uint64_t nr, const uint64_t arg[6], int64_t *ret_value, struct err *err);
/* Unmaps the blob.  After this only registers can be set, which may be those of an interrupted call. */
int vessel_leave(struct vessel *v, struct err *err);

/* Kills and reaps it, with its threads. */
void vessel_kill(pid_t pid);
