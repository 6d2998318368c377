/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource.h - what every kind of kernel object must tell us about itself.
 *
 * One kind = one file in file/, task/ or thread/ = one line in registry.c.
 * Around its state the same verbs:
 *
 *	kernel --see--> state --save--> record          (dump)
 *	record --load--> state --make--> kernel         (restore)
 *
 * see and make alone talk to the kernel; save and load alone know the image
 * format, and load checks everything (EBADMSG), for records come from anywhere.
 * Laws, tested without a dump: see(make(x)) == x and load(save(x)) == x.
 * Files in the folders below never include one another.
 *
 * Records are built on the heap (mem_new, mem_str) and freed as a whole by
 * protobuf_c_message_free_unpacked().
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "base/err.h"
#include "image/messages.h"
#include "image/store.h"
#include "inject/question.h"
#include "inject/vessel.h"
#include "kernel/proc_task.h"
#include "kernel/sock_diag.h"
#include "model/snapshot.h"

/* ---- open files: file/ ---- */

/* An open file as the dumper sees it. */
struct fd_view {
	struct snapshot *snapshot;      /* pipes and ghosts are added to it */
	const struct sock_diag *socks;  /* every socket of the network namespace; NULL when none was seen */
	pid_t pid;                      /* the task that has it, */
	int task_fd;                    /* under this number; -1: a mapping, exe, cwd or root */
	taddr start, end;               /* a mapping: where */
	int fd;                         /* our own duplicate, open during see only */
	uint32_t id;                    /* the file id it gets */
	bool shell_job;                 /* its terminal may stay behind */
	unsigned int flags;             /* O_*, access mode included, O_CLOEXEC not */
	uint64_t pos;
	struct stat st;
	char link[4200];                /* /proc/PID/fd/N */
	const char *info;               /* text of fdinfo; "" for what is no descriptor */
};

/* A pipe or FIFO that make has made; both descriptors are the maker's own (-1: none). */
struct made_pipe {
	uint32_t id;
	bool fifo;
	int read_fd, write_fd;          /* a FIFO has its only one, for both, in read_fd */
	bool read_taken, write_taken;   /* a file of the snapshot shares the description */
};

/* A removed file that is there for a while. */
struct made_ghost {
	uint32_t id;
	char *path;                     /* to open it by */
	char *name;                     /* its own; NULL: it had none */
	int fd;
};

/* What `make` works with: one a restore. */
struct maker {
	const struct snapshot *snapshot;
	bool shell_job;                 /* the tasks get ferry's own terminal for theirs */
	struct store *store;            /* ghosts' contents */
	int base_fd;                    /* descriptors of ferry's own are at or above this number; the tasks' are below */
	VEC(int) fds;                   /* fds.at[i]: descriptor of snapshot->files.at[i]; -1: not made (yet) */
	VEC(struct mapped_file { uint32_t file; bool writes; int fd; }) mapped;       /* files opened again for mappings */
	VEC(struct made_pipe) pipes;
	VEC(int) shmems;                /* shmems.at[i]: descriptor of snapshot->shmems.at[i], made before all files */
	VEC(struct made_ghost) ghosts;
	VEC(char *) ghost_dirs;         /* directories made for them */
};

#define FILE_ID_ALSO 0x80000000u

struct file_type {
	const char *name;               /* "eventfd": for logs and the table of what is supported */
	const char *lost;               /* what a restore does not bring back; NULL: nothing */
	int record;                     /* FD_TYPES__..., the type in files and fdinfo images */
	size_t state_size;
	bool (*claims)(const struct fd_view *v);        /* exactly one kind says yes */
	int (*see)(const struct fd_view *v, void *state, struct err *err);
	/* Optional.  After all files and descriptor tables are seen: what names other files (epoll's targets). */
	int (*resolve)(struct file *f, const struct snapshot *s, struct err *err);
	/* f has id, flags and fown; sets rec->type, rec->id and the kind's own message in it */
	void (*save)(const struct file *f, FileEntry *rec);
	/* Optional: a second record that f's own names (a FIFO's REG); stands right before it in files.img.
	 * Its id is f->id | FILE_ID_ALSO: no file of the snapshot has that one. */
	void (*save_also)(const struct file *f, FileEntry *rec);
	/* fills state and f->flags, f->fown; f->id is set, state is zeroed.  What is there after a failure can be dropped. */
	int (*load)(const FileEntry *rec, struct file *f, struct snapshot *s, struct err *err);
	/* Optional.  It can be made only when all tasks are there. */
	bool (*is_late)(const struct file *f, const struct snapshot *s);
	/* the descriptor gets O_CLOEXEC, and flags and owner as far as only it can set them;
	 * flags that F_SETFL knows (O_APPEND, O_NONBLOCK, O_ASYNC, O_DIRECT) and the owner are set by the caller */
	int (*make)(const struct file *f, struct maker *m, int *ret_fd, struct err *err);
	/* Optional.  After all files are made: what points at other files (epoll, socket pairs).  Runs in a scratch
	 * copy of ferry where any descriptor number may be overwritten (dup2). */
	int (*attach)(const struct file *f, struct maker *m, struct err *err);
	/* Optional: images of its own beside files.img (queues, pipe data).  Loaded before files.img. */
	int (*save_side)(const struct snapshot *s, struct store *store, struct err *err);
	int (*load_side)(struct snapshot *s, struct store *store, struct err *err);
	void (*drop)(void *state);      /* optional: frees what state owns (not state itself) */
};

extern const struct file_type *const file_types[];      /* ends with NULL */

/* The only kind that claims it.  EOPNOTSUPP: none does, with what it is in the error. */
int file_type_of(const struct fd_view *v, const struct file_type **ret_type, struct err *err);
const struct file_type *file_type_of_record(int record);        /* NULL: none */

/* fown and the records of it, the same in all kinds */
FownEntry *fown_save(const struct fown *f);
int fown_load(const FownEntry *rec, struct fown *ret_fown, struct err *err);

/* ---- parts of a task and of its threads: task/, thread/ ---- */

/* A stopped task as the dumper sees it.  Its threads' subjects are seen; asking is possible while can_ask. */
struct task_view {
	const struct proc_stat *stat;
	const struct proc_status *status;
	struct subject *subject;        /* the leader's */
	struct subject *subjects;       /* all threads', as in task->threads */
	const struct proc_maps *maps;
};

/* Asks the leader (or a thread) one question; the answer may be a value or -errno. */
int view_ask(struct subject *s, uint64_t nr, const uint64_t arg[6], int64_t *ret_answer, struct err *err);

/* Asked of all threads (all leaders) at once, before the kinds see: view_ask finds these answered. */
extern const struct standing_question thread_questions[], task_questions[];
extern const size_t thread_question_count, task_question_count;

/* When a task kind is made. */
enum task_stage {
	STAGE_THREADS,          /* the threads are there, their kinds are not made: all rights are still there too */
	STAGE_ALONE,            /* the leader is the only thread */
	STAGE_LAST,             /* the thread kinds of all threads are made */
};

/* see, save, load and make may each be missing where a kind has nothing to do then. */
struct task_kind {
	const char *name, *lost;
	enum task_stage stage;
	int (*see)(const struct task_view *v, struct task *t, struct err *err);
	void (*save)(const struct task *t, CoreEntry *core);    /* core->tc is there */
	int (*load)(const CoreEntry *core, struct task *t, struct err *err);
	/* appends to the leader's script */
	int (*make)(const struct task *t, struct vessel *v, struct err *err);
};

struct thread_kind {
	const char *name, *lost;
	int (*see)(const struct task_view *v, struct subject *s, struct thread *t, struct err *err);
	void (*save)(const struct thread *t, CoreEntry *core);  /* core->thread_core and thread_info are there */
	int (*load)(const CoreEntry *core, struct thread *t, struct err *err);
	/* appends to the thread's own script, or sets from outside */
	int (*make)(const struct task *task, const struct thread *t, struct script *s, struct err *err);
};

extern const struct task_kind *const task_kinds[];      /* in the order of make; ends with NULL */
extern const struct thread_kind *const thread_kinds[];

/*
 * The core image of a thread: all kinds' save and load.  The leader's (tid ==
 * pid) carries the task kinds too.  Of a dead task (TASK_ZOMBIE) there are
 * only its exit code and its leader's name.
 * core_load sets t->state, exit_code and stop_signal, and for the leader
 * everything that core.tc tells; t->pid and the tid of every thread in
 * t->threads are set before, by the caller.
 */
CoreEntry *core_save(const struct task *t, const struct thread *th);
int core_load(const CoreEntry *core, struct task *t, struct thread *th, bool leader, struct err *err);

/* What it was opened by; NULL: something without a path (or no file at all).  A ghost still has the name that it had. */
const char *file_path(const struct file *f);

/* Where a TCP or UDP socket is bound in the host's network.  False: no such socket, or it
 * is bound to nothing, or may be bound to what is not there. */
struct file_address { int family, type; uint16_t port; uint8_t bytes[16]; char text[64]; };
bool file_address(const struct file *f, struct file_address *ret);
