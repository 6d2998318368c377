/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reg - what is opened by its path: regular files, directories, memory devices.
 *
 * Seen in:  the link of /proc/PID/fd/N (or map_files), stat, fdinfo pos.
 * Made by:  open() of that path, lseek().  A file without a name is a ghost
 *           (ghost.c): its contents come along, and it gets its old name for
 *           as long as it takes to open it.  What is in /proc/PID of a task of
 *           the tree is opened when that task is there.
 * Image:    file_entry.reg in files.img; mappings, exe, cwd and root name
 *           entries of this kind too.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "resource/ghost.h"
#include "resource/resource.h"

#define DELETED      " (deleted)"
#define MEM_MAJOR    1u
/* what only matters while a file is being opened */
#define OPENING      (O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY)

struct reg {
	char *path;
	uint64_t pos;
	uint64_t size_bytes;
	uint32_t mode;
	bool has_size, has_mode;
};

static bool is_memory_device(const struct stat *st)
{
	static const unsigned int minors[] = { 3 /* null */, 5 /* zero */, 7 /* full */, 8 /* random */, 9 /* urandom */ };

	if (!S_ISCHR(st->st_mode) || major(st->st_rdev) != MEM_MAJOR)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(minors); i++)
		if (minor(st->st_rdev) == minors[i])
			return true;
	return false;
}

static bool reg_claims(const struct fd_view *v)
{
	static const char *const others[] = { "/memfd:", "/SYSV", "/anon_hugepage", "/[aio]", "/dev/zero (deleted)",
					      "/dmabuf:" };

	if (v->link[0] != '/')
		return false;
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		if (strncmp(v->link, others[i], strlen(others[i])) == 0)
			return false;
	return S_ISREG(v->st.st_mode) || S_ISDIR(v->st.st_mode) || is_memory_device(&v->st);
}

static bool same_file(const char *path, const struct stat *st)
{
	struct stat at;

	return lstat(path, &at) == 0 && at.st_dev == st->st_dev && at.st_ino == st->st_ino;
}

/* Another name in the same directory: sem_open() makes semaphores under a name that it takes away again. */
static bool find_brother(char **path, const struct stat *st)
{
	own_free char *dir_path = mem_str(*path);
	char *slash = strrchr(dir_path, '/');
	const struct dirent *d;
	own_dir *dir;

	*slash = '\0';
	dir = opendir(dir_path[0] ? dir_path : "/");
	while (dir && (d = readdir(dir)) != NULL) {
		own_free char *other = d->d_ino == st->st_ino ? mem_fmt("%s/%s", dir_path, d->d_name) : NULL;

		if (other && same_file(other, st)) {
			free(*path);
			*path = TAKE_PTR(other);
			return true;
		}
	}
	return false;
}

/* A file that its path does not lead to: without a name it is a ghost, with another one it may be found by that. */
static int see_lost(const struct fd_view *v, char **path, struct err *err)
{
	size_t len = strlen(*path), tail = strlen(DELETED);

	if (v->st.st_nlink == 0 && !S_ISREG(v->st.st_mode))
		return err_set(err, EOPNOTSUPP, "%s was removed and is no regular file: not handled yet", *path);
	if (v->st.st_nlink > 0 && find_brother(path, &v->st))
		return 0;
	if (v->st.st_nlink > 0)
		return err_set(err, EOPNOTSUPP, "%s was removed or is hidden, and has another name (%lu links)", *path,
			       (unsigned long)v->st.st_nlink);
	if (len > tail && strcmp(*path + len - tail, DELETED) == 0)
		(*path)[len - tail] = '\0';
	ghost_see(v);
	return 0;
}

/* In /proc/PID of a task of the tree.  *ret_rest: what follows, which may be empty. */
static const struct task *task_of(const char *path, const struct snapshot *s, const char **ret_rest)
{
	static const char proc[] = "/proc/";
	unsigned long pid;
	char *end;

	if (strncmp(path, proc, sizeof(proc) - 1) != 0)
		return NULL;
	pid = strtoul(path + sizeof(proc) - 1, &end, 10);
	*ret_rest = end;
	return pid <= INT_MAX && (*end == '/' || *end == '\0') ? snapshot_task(s, (pid_t)pid) : NULL;
}

static bool is_thread(const struct snapshot *s, unsigned long id)
{
	for (size_t i = 0; i < s->tasks.len; i++)
		for (size_t k = 0; k < s->tasks.at[i].threads.len; k++)
			if ((unsigned long)s->tasks.at[i].threads.at[k].tid == id)
				return true;
	return false;
}

static bool names_thread(const char *path, const struct snapshot *s)
{
	for (const char *at = path; (at = strchr(at, '/')) != NULL; at++) {
		char *end;
		unsigned long id = strtoul(at + 1, &end, 10);

		if (end > at + 1 && (*end == '/' || *end == '\0') && is_thread(s, id))
			return true;
	}
	return false;
}

/* A leader's task/PID is there as soon as the task is; other threads', and what its descriptors have a name by, are not. */
static bool is_there_early(const struct task *t, const char *rest)
{
	own_free char *leader = mem_fmt("/task/%d", t->pid);
	size_t len = strlen(leader);

	if (strncmp(rest, leader, len) == 0 && (rest[len] == '/' || rest[len] == '\0'))
		rest += len;
	while ((rest = strchr(rest, '/')) != NULL)
		if (isdigit((unsigned char)*++rest))
			return false;
	return true;
}

static int check_proc(const struct fd_view *v, const char *path, struct err *err)
{
	const struct task *t;
	const char *rest;
	struct statfs fs;

	if (fstatfs(v->fd, &fs) < 0)
		return err_sys(err, "%s", path);
	if (fs.f_type != PROC_SUPER_MAGIC)
		return 0;
	t = task_of(path, v->snapshot, &rest);
	if (t ? is_there_early(t, rest) : !names_thread(path, v->snapshot))
		return 0;
	return err_set(err, EOPNOTSUPP, "%s belongs to a thread of the tree, or a descriptor: not handled yet", path);
}

/* CRIU restores no file that has another size than its record: none is told of what lives on without the program. */
static bool size_matters(const struct fd_view *v)
{
	return S_ISREG(v->st.st_mode) && !((v->flags & O_ACCMODE) == O_WRONLY && v->flags & O_APPEND);
}

static int reg_see(const struct fd_view *v, void *state, struct err *err)
{
	own_free char *path = mem_str(v->link);
	int r = check_proc(v, path, err);

	if (r == 0 && !same_file(path, &v->st))
		r = see_lost(v, &path, err);
	if (r < 0)
		return r;
	*(struct reg *)state = (struct reg){
		.path = TAKE_PTR(path), .pos = v->pos,
		.size_bytes = (uint64_t)v->st.st_size, .has_size = size_matters(v), .mode = v->st.st_mode, .has_mode = true,
	};
	return 0;
}

static void reg_save(const struct file *f, FileEntry *rec)
{
	const struct reg *s = f->state;
	RegFileEntry *e = mem_new(sizeof(*e));

	reg_file_entry__init(e);
	e->id = f->id;
	e->flags = f->flags;
	e->pos = s->pos;
	e->fown = fown_save(&f->fown);
	e->name = mem_str(s->path);
	e->has_size = s->has_size;
	e->size = s->has_size ? s->size_bytes : 0;
	e->has_mode = s->has_mode;
	e->mode = s->mode;
	rec->reg = e;
}

static int reg_load(const FileEntry *rec, struct file *f, struct snapshot *snapshot, struct err *err)
{
	const RegFileEntry *e = rec->reg;

	(void)snapshot;
	if (!e)
		return err_set(err, EBADMSG, "regular file record has no body");
	if (e->name[0] != '/')
		return err_set(err, EBADMSG, "'%.100s' is not an absolute path", e->name);
	if (e->pos > INT64_MAX)
		return err_set(err, EBADMSG, "%.100s: position %#llx", e->name, (unsigned long long)e->pos);
	f->flags = e->flags;
	*(struct reg *)f->state = (struct reg){
		.path = mem_str(e->name), .pos = e->pos, .size_bytes = e->size, .has_size = e->has_size,
		.mode = e->mode, .has_mode = e->has_mode,
	};
	return fown_load(e->fown, &f->fown, err);
}

/* The program maps or holds what was there: another kind of file, or a library of another size, is not that. */
static int check(const struct file *f, const struct reg *s, int fd, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, "stat %s", s->path);
	if (s->has_mode && (st.st_mode & S_IFMT) != (s->mode & S_IFMT))
		return err_set(err, EINVAL, "%s is another kind of file now (mode %o, was %o)", s->path, st.st_mode, s->mode);
	if (f->mapped && s->has_size && S_ISREG(st.st_mode) && (uint64_t)st.st_size != s->size_bytes)
		return err_set(err, EINVAL, "%s is mapped and has changed its size: %lld bytes, was %llu", s->path,
			       (long long)st.st_size, (unsigned long long)s->size_bytes);
	return 0;
}

/* Never had a name; O_DIRECTORY is a part of it. */
static bool is_tmpfile(unsigned int flags)
{
	return (flags & O_TMPFILE) == O_TMPFILE;
}

/* Whatever has its name now: nobody waits at a FIFO, no terminal becomes ferry's.  The caller sets what F_SETFL knows. */
static int opening_flags(unsigned int flags)
{
	return (int)(flags & ~OPENING & ~(is_tmpfile(flags) ? O_TMPFILE : 0u)) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
}

/* To create it anew without a name: its contents are written anywhere, from any memory.  0: it had one. */
static int creating_flags(unsigned int flags)
{
	return is_tmpfile(flags) ? (opening_flags(flags) & ~(O_APPEND | O_DIRECT)) | O_TMPFILE : 0;
}

static int reg_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	const struct reg *s = f->state;
	const char *path = s->path;
	own_fd fd = -1;
	int r = ghost_make(f->id, s->path, creating_flags(f->flags), m, &path, &fd, err);

	if (r < 0)
		return r;
	if (fd < 0)
		fd = open(path, opening_flags(f->flags));
	if (fd < 0)
		return err_sys(err, "open %s", path);
	r = check(f, s, fd, err);
	if (r < 0)
		return r;
	if (s->pos > 0 && !(f->flags & O_PATH) && lseek(fd, (off_t)s->pos, SEEK_SET) < 0)
		return err_sys(err, "seek %s to %llu", path, (unsigned long long)s->pos);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static bool reg_is_late(const struct file *f, const struct snapshot *s)
{
	const struct reg *reg = f->state;
	const char *rest;

	return task_of(reg->path, s, &rest) != NULL;
}

static void reg_drop(void *state)
{
	free(((struct reg *)state)->path);
}

const struct file_type reg_type = {
	.name = "files, directories, /dev/null and its kin",
	.record = FD_TYPES__REG,
	.state_size = sizeof(struct reg),
	.claims = reg_claims,
	.see = reg_see,
	.save = reg_save,
	.load = reg_load,
	.is_late = reg_is_late,
	.make = reg_make,
	.save_side = ghost_save,
	.load_side = ghost_load,
	.drop = reg_drop,
};

const char *file_path(const struct file *f)
{
	return f && f->type == &reg_type ? ((const struct reg *)f->state)->path : NULL;
}
