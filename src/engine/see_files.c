/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/see.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/sys.h"

#ifndef F_GETOWNER_UIDS
#define F_GETOWNER_UIDS 17
#endif

/* A file that is new to the snapshot: its kind is found and asked. */
static int add_file(struct seeing *s, struct fd_view *v, struct file *f, uint32_t *ret_id, struct err *err)
{
	int r;

	v->snapshot = s->snapshot;
	v->shell_job = s->shell_job;
	v->socks = s->have_socks ? &s->socks : NULL;
	v->id = f->id = (uint32_t)s->snapshot->files.len + 1;
	r = file_type_of(v, &f->type, err);
	if (r < 0)
		return r;
	f->state = mem_new(f->type->state_size);
	f->drop = f->type->drop;
	f->flags = v->flags;
	f->pid = v->pid;
	f->fd = v->task_fd;
	r = f->type->see(v, f->state, err);
	if (r < 0) {
		free(f->state);
		return r;
	}
	vec_push(&s->snapshot->files, *f);
	*ret_id = f->id;
	return 0;
}

static int see_owner(int fd, struct fown *ret_fown, struct err *err)
{
	struct f_owner_ex owner;
	uint32_t uids[2] = { 0 };
	int signal = fcntl(fd, F_GETSIG);

	if (signal < 0 && errno == EBADF)       /* O_PATH */
		return 0;
	if (signal < 0 || fcntl(fd, F_GETOWN_EX, &owner) < 0)
		return err_sys(err, "get the owner");
	*ret_fown = (struct fown){ .signal = (uint32_t)signal };
	if (owner.pid == 0)
		return 0;
	if (fcntl(fd, F_GETOWNER_UIDS, uids) < 0)
		return err_sys(err, "get the owner");
	ret_fown->pid = owner.pid;
	ret_fown->pid_type = (uint32_t)owner.type;
	ret_fown->uid = uids[0];
	ret_fown->euid = uids[1];
	return 0;
}

static int compare_numbers(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

/* Descriptions have an order: by inode, and by the kernel's own where that is the same.  <0, 0, >0: v comes before, is, comes behind f. */
static int compare_files(const struct fd_view *v, const struct file *f, int *ret_order, struct err *err)
{
	int r;

	*ret_order = compare_numbers(v->st.st_dev, f->dev);
	if (*ret_order == 0)
		*ret_order = compare_numbers(v->st.st_ino, f->ino);
	if (*ret_order != 0)
		return 0;
	r = sys_kcmp(v->pid, f->pid, SYS_KCMP_FILE, (uint64_t)v->task_fd, (uint64_t)f->fd, err);
	*ret_order = r == 0 ? 0 : r == 1 ? -1 : 1;
	return r < 0 ? r : 0;
}

/* The description behind a descriptor, where another task or number led to it before (0: none did); its place in s->by_order. */
static int find_file(struct seeing *s, const struct fd_view *v, uint32_t *ret_id, size_t *ret_place, struct err *err)
{
	size_t low = 0, high = s->by_order.len;

	*ret_id = 0;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct file *f = &s->snapshot->files.at[s->by_order.at[mid]];
		int order, r = compare_files(v, f, &order, err);

		if (r < 0)
			return r;
		if (order == 0) {
			*ret_id = f->id;
			return 0;
		}
		if (order < 0)
			high = mid;
		else
			low = mid + 1;
	}
	*ret_place = low;
	return 0;
}

static void put_in_order(struct seeing *s, size_t place, size_t index)
{
	vec_push(&s->by_order, 0);
	memmove(&s->by_order.at[place + 1], &s->by_order.at[place], (s->by_order.len - 1 - place) * sizeof(size_t));
	s->by_order.at[place] = index;
}

static int need_socks(struct seeing *s, struct err *err)
{
	int r;

	if (s->have_socks)
		return 0;
	r = sock_diag_collect(-1, &s->socks, err);
	if (r == 0)
		s->have_socks = true;
	return r;
}

static int see_link(pid_t pid, const char *name, struct fd_view *v, struct err *err)
{
	int r = proc_link(pid, name, v->link, sizeof(v->link), err);

	return r < 0 ? r : 0;
}

static int see_fd(struct seeing *s, int pidfd, pid_t pid, int task_fd, struct fd_slot *ret_slot, struct err *err)
{
	own_free char *info = NULL;
	struct proc_text text = { 0 };
	struct fd_view v = { .pid = pid, .task_fd = task_fd };
	struct file f = { 0 };
	char name[32];
	uint64_t flags;
	size_t place = 0;
	own_fd fd = -1;
	int r;

	snprintf(name, sizeof(name), "fdinfo/%d", task_fd);
	r = proc_read_all(pid, name, &text, err);
	if (r < 0)
		return r;
	info = text.at;
	r = fdinfo_u64(info, "flags", 8, &flags, err);
	if (r == 0)
		r = fdinfo_u64(info, "pos", 10, &v.pos, err);
	if (r == 0)
		r = sys_pidfd_getfd(pidfd, task_fd, &fd, err);
	if (r < 0)
		return r;
	if (fdinfo_has(info, "lock"))
		return err_set(err, EOPNOTSUPP, "it holds a file lock: not handled yet");
	v.fd = fd;
	v.info = info;
	v.flags = (unsigned int)flags & ~(unsigned int)O_CLOEXEC;
	*ret_slot = (struct fd_slot){ .fd = task_fd, .cloexec = flags & O_CLOEXEC };
	if (fstat(fd, &v.st) < 0)
		return err_sys(err, "stat");
	r = find_file(s, &v, &ret_slot->file, &place, err);
	if (r != 0 || ret_slot->file)
		return r;
	f.dev = v.st.st_dev;
	f.ino = v.st.st_ino;
	snprintf(name, sizeof(name), "fd/%d", task_fd);
	r = see_link(pid, name, &v, err);
	if (r == 0)
		r = see_owner(fd, &f.fown, err);
	if (r == 0 && S_ISSOCK(v.st.st_mode))
		r = need_socks(s, err);
	if (r == 0)
		r = add_file(s, &v, &f, &ret_slot->file, err);
	if (r == 0)
		put_in_order(s, place, s->snapshot->files.len - 1);
	return r;
}

/* Another task with the same descriptor table (clone(CLONE_FILES)). */
static int find_table(struct seeing *s, const struct task *t, uint32_t *ret_id, struct err *err)
{
	pid_t same = 0;
	int r = kcmp_set_add(&s->tables, t->pid, &same, err);

	*ret_id = 0;
	if (r < 0 || same == 0)
		return r;
	if (same != t->ppid)
		return err_set(err, EOPNOTSUPP, "it shares its descriptor table with process %d, which is not its "
			       "parent: not handled yet", same);
	*ret_id = snapshot_task(s->snapshot, same)->files_id;
	return 0;
}

static int see_fds(struct seeing *s, struct task *t, struct err *err)
{
	struct proc_ids fds = { 0 };
	own_fd pidfd = -1;
	int r = sys_pidfd_open(t->pid, 0, &pidfd, err);

	if (r == 0)
		r = proc_fds(t->pid, &fds, err);
	for (size_t i = 0; r >= 0 && i < fds.len; i++) {
		struct fd_slot slot;

		LOG_SCOPE("fd %d", fds.at[i]);
		r = see_fd(s, pidfd, t->pid, fds.at[i], &slot, err);
		if (r == 0)
			vec_push(&t->fds, slot);
		r = see_refused(s, r, err);
	}
	vec_free(&fds);
	return r < 0 ? r : 0;
}

int see_files(struct seeing *s, size_t index, struct task *t, struct err *err)
{
	int r = find_table(s, t, &t->files_id, err);

	if (r == 0 && t->files_id == 0) {
		t->files_id = (uint32_t)index + 2;      /* 1 is ferry's own in an inventory */
		r = see_fds(s, t, err);
	}
	if (r == 0)
		r = see_path_file(s, t->pid, "cwd", &t->cwd_file, err);
	if (r == 0)
		r = see_path_file(s, t->pid, "root", &t->root_file, err);
	return r;
}

static struct file *find_path(struct seeing *s, dev_t dev, ino_t ino, unsigned int flags)
{
	for (size_t i = 0; i < s->snapshot->files.len; i++) {
		struct file *f = &s->snapshot->files.at[i];

		if (f->fd < 0 && f->dev == dev && f->ino == ino && f->flags == flags)
			return f;
	}
	return NULL;
}

int see_path_file(struct seeing *s, pid_t pid, const char *link, uint32_t *ret_id, struct err *err)
{
	struct fd_view v = { .pid = pid, .task_fd = -1, .info = "" };
	struct file f = { 0 }, *known;
	own_fd fd = -1;
	int r = proc_open_file(pid, link, O_PATH, &fd, err);

	LOG_SCOPE("%s", link);
	if (r == 0)
		r = see_link(pid, link, &v, err);
	if (r < 0)
		return r;
	if (fstat(fd, &v.st) < 0)
		return err_sys(err, "stat");
	known = find_path(s, v.st.st_dev, v.st.st_ino, 0);
	if (known) {
		*ret_id = known->id;
		return 0;
	}
	v.fd = fd;
	f.dev = v.st.st_dev;
	f.ino = v.st.st_ino;
	return add_file(s, &v, &f, ret_id, err);
}

int see_mapped_file(struct seeing *s, pid_t pid, const struct proc_map *m, unsigned int flags, uint32_t *ret_id,
		    struct err *err)
{
	struct fd_view v = { .pid = pid, .task_fd = -1, .info = "", .flags = flags, .start = m->start, .end = m->end };
	struct file f = { .dev = m->dev, .ino = m->ino, .mapped = true };
	struct file *known = find_path(s, m->dev, m->ino, flags);
	char name[64];
	own_fd fd = -1;
	int r;

	if (known) {
		known->mapped = true;
		*ret_id = known->id;
		return 0;
	}
	snprintf(name, sizeof(name), "map_files/%llx-%llx", (unsigned long long)m->start, (unsigned long long)m->end);
	r = proc_open_file(pid, name, O_PATH, &fd, err);
	if (r < 0)
		return r;
	if (fstat(fd, &v.st) < 0)
		return err_sys(err, "stat %s", m->name);
	v.fd = fd;
	snprintf(v.link, sizeof(v.link), "%s", m->name);
	return add_file(s, &v, &f, ret_id, err);
}
