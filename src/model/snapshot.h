/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot.h - a process tree at one moment, as plain data.
 *
 *	dump:     kernel --see--> snapshot --save--> images
 *	restore:  images --load--> snapshot --make--> kernel
 *
 * The snapshot owns everything in it; tasks, files and objects name one another
 * by index or id, never by pointer.  No descriptors and no policy are in here.
 * Pids are those of ferry's own pid namespace.
 */
#pragma once
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/user.h>

#include "base/taddr.h"
#include "base/vec.h"



/* ---- memory ---- */

/* vma_entry.status */
enum {
	VMA_REGULAR = 0x1, VMA_STACK = 0x2, VMA_VSYSCALL = 0x4, VMA_VDSO = 0x8, VMA_HEAP = 0x20,
	VMA_FILE_PRIVATE = 0x40, VMA_FILE_SHARED = 0x80, VMA_ANON_SHARED = 0x100, VMA_ANON_PRIVATE = 0x200,
	VMA_SYSV = 0x400, VMA_SOCKET = 0x800, VMA_VVAR = 0x1000, VMA_AIO = 0x2000, VMA_MEMFD = 0x4000,
};

struct vma {
	taddr start, end;
	uint64_t pgoff;                 /* in bytes */
	uint32_t prot, flags;           /* PROT_*, MAP_* */
	uint32_t status;                /* VMA_* */
	uint64_t object;                /* file id, or id of the shared memory object */
	uint64_t madvise;               /* bit n: madvise(n) is in force */
	bool account;                   /* was writable once: counts as committed memory */
	bool lock_on_fault;             /* MAP_LOCKED, but only of what is touched */
	bool reopened, writes;          /* restore: its file is opened again for it, for reading or for writing too */
	bool shares_pages;              /* dump: some of its pages are others' too (copy on write) */
};

struct mm {
	VEC(struct vma) vmas;           /* rising, disjoint */
	uint64_t start_code, end_code, start_data, end_data, start_stack, start_brk, brk;
	uint64_t arg_start, arg_end, env_start, env_end;
	VEC(uint64_t) auxv;
	uint32_t exe_file;              /* file id */
	int dumpable;
	bool thp_disabled;
};

/* A shared memory object: anonymous (MAP_SHARED|MAP_ANONYMOUS), or a memfd. */
struct shmem {
	uint64_t id;                    /* its contents are in pagemap-shmem-ID */
	uint64_t size_bytes;
	char *name;                     /* owned; NULL: anonymous */
	uint32_t inode_id;              /* what memfd files call it; 0: only mappings know it, by its id */
	uint32_t seals, mode, uid, gid; /* F_SEAL_*, 07777 */
	dev_t dev;                      /* dump: identity */
	ino_t ino;
	pid_t pid;                      /* dump: a task that has it, and as what: "fd/3", "map_files/..." in /proc/PID */
	char at[48];
};

/* ---- tasks ---- */

struct creds {
	uint32_t uid, gid, euid, egid, suid, sgid, fsuid, fsgid;
	uint64_t cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	uint32_t securebits;
	bool no_new_privs;
	VEC(uint32_t) groups;
};

struct sigact { uint64_t handler, flags, restorer, mask; };

struct signal_info { uint8_t bytes[128]; };
struct signal_queue { struct signal_info *at; size_t len, cap; };       /* a VEC */

struct posix_timer {
	int id, clock, signal, notify;
	uint64_t sigval;
	uint32_t overrun;
	pid_t thread;                   /* SIGEV_THREAD_ID; 0: none */
	uint64_t interval_ns, left_ns;  /* left 0: disarmed */
};

struct thread {
	pid_t tid;
	char comm[16];
	struct user_regs_struct regs;   /* restarted: ready to be set */
	uint32_t interrupted;           /* they make a call again that was: with the kernel's code 512..514; 0: none */
	uint8_t *xsave;                 /* owned; standard form */
	size_t xsave_len;
	uint64_t mask;
	uint64_t clear_tid;
	uint64_t robust_head, robust_len;
	struct { uint64_t sp, size; uint32_t flags; } altstack;
	struct { uint64_t pointer; uint32_t size, signature; } rseq;
	uint32_t pdeath_signal;
	int nice;
	uint32_t policy, priority;
	uint32_t ioprio;                /* as ioprio_get() has it; 0: none */
	uint64_t timer_slack_ns;        /* 0: none (real-time policies), or not known */
	VEC(uint64_t) affinity;         /* bit set of processors; empty: not known */
	struct creds creds;
	struct signal_queue pending;
};

enum task_state { TASK_ALIVE = 1, TASK_DEAD = 2, TASK_STOPPED = 3, TASK_ZOMBIE = 6 };  /* as in core images */

struct fd_slot {
	int fd;
	uint32_t file;                  /* file id */
	bool cloexec;
};

#define SIGNALS 64

struct task {
	pid_t pid, ppid, pgid, sid;
	enum task_state state;
	int exit_code;                  /* zombies: as wait() gives it */
	uint32_t flags;                 /* PF_* */
	uint32_t personality;
	uint32_t umask;
	uint32_t loginuid;              /* UINT32_MAX: not set */
	int oom_score_adj;
	bool subreaper;
	uint32_t stop_signal;           /* stopped: by which */
	uint32_t membarrier;            /* registrations, MEMBARRIER_CMD_* bits */
	uint64_t xcomp;                 /* vector state that had to be asked for (AMX), XSAVE component bits */
	uint32_t files_id;              /* tasks with the same one share a descriptor table */
	uint32_t cwd_file, root_file;   /* file ids */
	VEC(struct fd_slot) fds;        /* rising */
	VEC(struct thread) threads;     /* the leader first */
	struct sigact actions[SIGNALS]; /* [0] is signal 1 */
	struct rlimit64 limits[RLIM_NLIMITS];
	struct { uint64_t interval_us, left_us; } itimers[3];   /* ITIMER_REAL, VIRTUAL, PROF */
	VEC(struct posix_timer) timers;
	struct signal_queue pending;
	struct mm mm;
};

/* ---- open files ---- */

struct fown {
	uint32_t uid, euid;
	uint32_t signal;
	uint32_t pid_type;              /* as F_SETOWN_EX: 0 thread, 1 process, 2 group */
	pid_t pid;                      /* 0: no owner */
};

struct file_type;                       /* resource/resource.h */

/* An open file description. */
struct file {
	uint32_t id;
	const struct file_type *type;
	void *state;                    /* type->state_size bytes; owned */
	void (*drop)(void *state);      /* frees what state owns; NULL: nothing */
	unsigned int flags;             /* O_*, access mode included, O_CLOEXEC not */
	struct fown fown;
	bool used;                      /* restore: somebody has or maps it; others are not made */
	bool written;                   /* restore: it is opened again for writing */
	bool mapped;                    /* some mapping shows it: its size must not have changed */
	/* dump: where it was first met, for errors and kcmp */
	pid_t pid;
	int fd;                         /* -1: not a descriptor (mapping, exe, cwd, root) */
	dev_t dev;
	ino_t ino;
};

/* A pipe or FIFO: what its ends have in common. */
struct pipe {
	uint32_t id;
	uint32_t size_bytes;            /* F_GETPIPE_SZ; 0: not known */
	bool fifo;
	dev_t dev;                      /* dump: identity */
	ino_t ino;
	uint8_t *data;                  /* owned */
	size_t len_bytes;
	VEC(uint32_t) packets;          /* O_DIRECT: sizes of the packets in data; empty: a plain stream */
};

/* A regular file that has no name any more, with its contents in the image. */
struct ghost {
	uint32_t id;
	dev_t dev;
	ino_t ino;
	uint32_t uid, gid, mode;
	uint64_t size_bytes;
	struct timespec atime, mtime;
	VEC(uint32_t) files;            /* ids of the descriptions that are open on it */
	pid_t pid;                      /* dump: a task that has it open, */
	int fd;                         /*       as this descriptor, */
	taddr start, end;               /*       or mapped here (fd < 0) */
};

/* What waits in a socket to be received: a message, or a piece of a stream. */
struct packet {
	uint32_t file;                  /* id of the file that will receive it */
	uint8_t *bytes;                 /* owned */
	size_t len_bytes;
	uint8_t from_len;               /* name of the unix socket that sent it; 0: it has none, or nobody knows */
	char from[108];
};

struct snapshot {
	VEC(struct task) tasks;         /* parents before children; the root first */
	VEC(struct file) files;         /* rising id */
	VEC(struct shmem) shmems;
	VEC(struct pipe) pipes;
	VEC(struct ghost) ghosts;
	VEC(struct packet) packets;     /* of one file: in the order in which they came */
};

void snapshot_free(struct snapshot *s);
void thread_free(struct thread *t);

/* Has a task before it the same descriptor table?  That one fills it, this one is cloned with CLONE_FILES. */
bool snapshot_shares_table(const struct snapshot *s, const struct task *t);

struct task *snapshot_task(const struct snapshot *s, pid_t pid);        /* NULL: none */
struct file *snapshot_file(const struct snapshot *s, uint32_t id);      /* NULL: none */
struct pipe *snapshot_pipe(const struct snapshot *s, uint32_t id, bool fifo);
struct ghost *snapshot_ghost(const struct snapshot *s, uint32_t id);
struct ghost *snapshot_ghost_of(const struct snapshot *s, uint32_t file);       /* NULL: the file is no ghost's */
struct shmem *snapshot_memfd(const struct snapshot *s, uint32_t inode_id);
/* A number for an object that is new: its inode's, so that the next dump of it has the same; never one that is used. */
uint64_t snapshot_shmem_id(const struct snapshot *s, ino_t ino);
struct shmem *snapshot_shmem(const struct snapshot *s, dev_t dev, ino_t ino);   /* dump */
