/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/restoring.h"
#include "kernel/sys.h"
#include "resource/ghost.h"

#define SELF_FD_MIN 256         /* where the pidfd of ferry is looked for room */
#define SETFL_FLAGS (O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK)

/* At most so many files are opened again for mappings. */
static size_t reopened(const struct snapshot *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->tasks.len; i++)
		for (size_t k = 0; k < s->tasks.at[i].mm.vmas.len; k++)
			n += s->tasks.at[i].mm.vmas.at[k].reopened;
	return n < 2 * s->files.len ? n : 2 * s->files.len;
}

/* All of ferry's descriptors that tasks get lie above all numbers that tasks use. */
static int choose_base(struct restoring *r, struct err *err)
{
	size_t need = r->snapshot.files.len + r->snapshot.shmems.len + r->snapshot.ghosts.len + reopened(&r->snapshot) + 64;
	struct rlimit limit;
	int base = 16;

	for (size_t i = 0; i < r->snapshot.tasks.len; i++) {
		const struct task *t = &r->snapshot.tasks.at[i];

		if (t->fds.len > 0 && t->fds.at[t->fds.len - 1].fd >= base)
			base = t->fds.at[t->fds.len - 1].fd + 1;
	}
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return err_sys(err, "get the limit of descriptors");
	limit.rlim_cur = limit.rlim_max;
	if ((rlim_t)base + need > limit.rlim_max)
		return err_set(err, EMFILE, "descriptor %d and %zu files: over the limit of %llu (ulimit -Hn)", base - 1,
			       need, (unsigned long long)limit.rlim_max);
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		return err_sys(err, "raise the limit of descriptors");
	r->maker.base_fd = base;
	return 0;
}

int lift_fd(const struct restoring *r, int *fd, struct err *err)
{
	int high;

	if (*fd >= r->maker.base_fd)
		return 0;
	high = fcntl(*fd, F_DUPFD_CLOEXEC, r->maker.base_fd);

	if (high < 0)
		return err_sys(err, "move a descriptor");
	close(*fd);
	*fd = high;
	return 0;
}

static int set_flags(const struct file *f, int fd, unsigned int flags, struct err *err)
{
	int now, wanted;

	if (f->flags & O_PATH)
		return 0;
	now = fcntl(fd, F_GETFL);
	wanted = (int)((unsigned int)now & ~SETFL_FLAGS) | (int)flags;
	if (now != wanted && fcntl(fd, F_SETFL, wanted) < 0)
		return err_sys(err, "set flags %#o", wanted);
	return 0;
}

bool is_late_file(const struct restoring *r, const struct file *f)
{
	return f && f->used && f->type->is_late && f->type->is_late(f, &r->snapshot);
}

static int make_file(struct restoring *r, size_t index, struct err *err)
{
	const struct file *f = &r->snapshot.files.at[index];
	int fd = -1, done;

	LOG_SCOPE("file %u (%s)", f->id, f->type->name);
	if (!f->used || r->maker.fds.at[index] >= 0)    /* or made together with another one */
		return 0;
	done = f->type->make(f, &r->maker, &fd, err);
	if (fd >= 0)                    /* else it comes with another one */
		r->maker.fds.at[index] = fd;
	return done;
}

static int finish_file(struct restoring *r, size_t index, struct err *err)
{
	const struct file *f = &r->snapshot.files.at[index];
	int *slot = &r->maker.fds.at[index], done;

	LOG_SCOPE("file %u (%s)", f->id, f->type->name);
	if (*slot < 0)
		return f->used ? err_set(err, EBADMSG, "what it belongs to is not there") : 0;
	done = lift_fd(r, slot, err);
	return done < 0 ? done : set_flags(f, *slot, f->flags & SETFL_FLAGS & ~O_ASYNC, err);
}

int mapped_fd(const struct restoring *r, const struct vma *v)
{
	for (size_t i = 0; i < r->maker.mapped.len; i++)
		if (r->maker.mapped.at[i].file == v->object && r->maker.mapped.at[i].writes == v->writes)
			return r->maker.mapped.at[i].fd;
	return -1;
}

static int open_mapped(struct restoring *r, const struct vma *v, struct err *err)
{
	own_fd fd = -1;
	char path[32];
	int done;

	LOG_SCOPE("file %llu", (unsigned long long)v->object);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", made_fd(r, (uint32_t)v->object));
	fd = open(path, (v->writes ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, "open it again for mappings%s", v->writes ? " that write" : "");
	done = lift_fd(r, &fd, err);
	if (done == 0)
		vec_push(&r->maker.mapped, ((struct mapped_file){ (uint32_t)v->object, v->writes, TAKE_FD(fd) }));
	return done;
}

static int open_all_mapped(struct restoring *r, struct err *err)
{
	int done = 0;

	for (size_t i = 0; i < r->snapshot.tasks.len; i++) {
		const struct mm *mm = &r->snapshot.tasks.at[i].mm;

		for (size_t k = 0; done == 0 && k < mm->vmas.len; k++)
			if (mm->vmas.at[k].reopened && mapped_fd(r, &mm->vmas.at[k]) < 0)
				done = open_mapped(r, &mm->vmas.at[k], err);
	}
	return done;
}

/* For a stage: what is mapped, and nothing else: it will be made when it is what it will be. */
static void use_what_is_mapped(struct snapshot *s)
{
	for (size_t i = 0; i < s->files.len; i++)
		s->files.at[i].used = false;
	for (size_t i = 0; i < s->tasks.len; i++) {
		const struct mm *mm = &s->tasks.at[i].mm;
		struct file *exe = s->tasks.at[i].state == TASK_ZOMBIE ? NULL : snapshot_file(s, mm->exe_file);

		if (exe)
			exe->used = true;
		for (size_t k = 0; k < mm->vmas.len; k++) {
			const struct vma *v = &mm->vmas.at[k];
			struct file *f = v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED) ? snapshot_file(s, (uint32_t)v->object) : NULL;

			if (f)
				f->used = true;
		}
	}
}

/* Those that are late, or those that are not. */
static int make_all(struct restoring *r, bool late, struct err *err)
{
	int done = 0;

	for (size_t i = 0; done == 0 && i < r->snapshot.files.len; i++)
		if (is_late_file(r, &r->snapshot.files.at[i]) == late)
			done = make_file(r, i, err);
	for (size_t i = 0; done == 0 && i < r->snapshot.files.len; i++)
		if (is_late_file(r, &r->snapshot.files.at[i]) == late)
			done = finish_file(r, i, err);
	return done;
}

int make_files(struct restoring *r, struct err *err)
{
	int done = choose_base(r, err);

	if (r->staged && !r->before)
		use_what_is_mapped(&r->snapshot);

	r->maker.snapshot = &r->snapshot;
	r->maker.shell_job = r->options->shell_job;
	r->maker.store = r->store;
	if (done == 0)
		done = make_shmems(r, err);
	for (size_t i = 0; i < r->snapshot.files.len; i++)
		vec_push(&r->maker.fds, -1);
	if (done == 0)
		done = make_all(r, false, err);
	if (done == 0)
		done = open_all_mapped(r, err);
	ghost_remove_all(&r->maker);
	return done;
}

int make_late_files(struct restoring *r, struct err *err)
{
	return make_all(r, true, err);
}

int open_self(struct restoring *r, struct err *err)
{
	own_fd fd = -1;
	int done = sys_pidfd_open(getpid(), 0, &fd, err);

	if (done < 0)
		return done;
	r->self = fcntl(fd, F_DUPFD_CLOEXEC, r->maker.base_fd > SELF_FD_MIN ? r->maker.base_fd : SELF_FD_MIN);
	return r->self < 0 ? err_sys(err, "move a descriptor") : 0;
}

int made_fd(const struct restoring *r, uint32_t file)
{
	const struct file *f = snapshot_file(&r->snapshot, file);

	return f ? r->maker.fds.at[f - r->snapshot.files.at] : -1;
}

/* Who sets an owner is remembered with it: its rights are checked when the signal is sent. */
static int set_owner(const struct file *f, int fd, struct err *err)
{
	struct f_owner_ex owner = { .type = (int)f->fown.pid_type, .pid = f->fown.pid };

	if (f->fown.signal && fcntl(fd, F_SETSIG, f->fown.signal) < 0)
		return err_sys(err, "set signal %u", f->fown.signal);
	if (f->fown.pid == 0)
		return 0;
	if (setresuid(f->fown.uid, f->fown.euid, (uid_t)-1) < 0)
		return err_sys(err, "become user %u", f->fown.uid);
	if (fcntl(fd, F_SETOWN_EX, &owner) < 0) {
		if (errno != ESRCH)
			return err_sys(err, "set owner %d", f->fown.pid);
		log_warn("its owner %d was not in the tree, and is gone: nobody gets its signals", f->fown.pid);
	}
	if (setresuid((uid_t)-1, 0, (uid_t)-1) < 0 || setresuid(0, 0, 0) < 0)
		return err_sys(err, "become root again");
	return 0;
}

/* The number under which some task has a file: signals of O_ASYNC tell the number by which it was asked for. */
static int number_of(const struct snapshot *s, const struct file *f)
{
	for (size_t i = 0; i < s->tasks.len; i++)
		for (size_t k = 0; k < s->tasks.at[i].fds.len; k++)
			if (s->tasks.at[i].fds.at[k].file == f->id)
				return s->tasks.at[i].fds.at[k].fd;
	return -1;
}

/* After attach, which may have needed other flags for a while. */
static int finish_flags(struct restoring *r, size_t index, struct err *err)
{
	const struct file *f = &r->snapshot.files.at[index];
	int fd = r->maker.fds.at[index], number;

	if (f->flags & O_ASYNC) {
		number = number_of(&r->snapshot, f);
		if (number >= 0 && (fd = dup2(fd, number)) < 0)
			return err_sys(err, "put it at descriptor %d for a while", number);
	}
	return set_flags(f, fd, f->flags & SETFL_FLAGS, err);
}

static int attach_all(struct restoring *r, struct err *err)
{
	int done = 0;

	for (size_t i = 0; done == 0 && i < r->snapshot.files.len; i++) {
		const struct file *f = &r->snapshot.files.at[i];

		LOG_SCOPE("file %u (%s)", f->id, f->type->name);
		if (f->used && f->type->attach)
			done = f->type->attach(f, &r->maker, err);
	}
	for (size_t i = 0; done == 0 && i < r->snapshot.files.len; i++) {
		const struct file *f = &r->snapshot.files.at[i];

		LOG_SCOPE("file %u (%s) > owner, flags", f->id, f->type->name);
		if (f->used && (f->fown.pid || f->fown.signal) && r->maker.fds.at[i] >= 0)
			done = set_owner(f, r->maker.fds.at[i], err);
		if (done == 0 && f->used && r->maker.fds.at[i] >= 0)
			done = finish_flags(r, i, err);
	}
	return done;
}

static bool attach_needed(const struct restoring *r)
{
	for (size_t i = 0; i < r->snapshot.files.len; i++) {
		const struct file *f = &r->snapshot.files.at[i];

		if (f->used && (f->type->attach || f->fown.pid || f->fown.signal || f->flags & O_ASYNC))
			return true;
	}
	return false;
}

/* In a copy of ferry, whose descriptor numbers may be overwritten: the descriptions are the same ones. */
int attach_files(struct restoring *r, struct err *err)
{
	struct { int done; struct err err; } *out;
	int status, done;
	pid_t pid;

	if (!attach_needed(r))
		return 0;
	out = mmap(NULL, sizeof(*out), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (out == MAP_FAILED)
		return err_sys(err, "map a page");
	pid = fork();
	if (pid == 0) {
		out->done = attach_all(r, &out->err);
		_exit(0);
	}
	if (pid < 0)
		return err_sys(err, "fork");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	done = out->done;
	if (status != 0)
		done = err_set(err, EIO, "the helper that joins files died (status %#x)", (unsigned int)status);
	else if (done < 0)
		*err = out->err;
	munmap(out, sizeof(*out));
	return done;
}
