/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "resource/ghost.h"

#define COPY_BYTES (64u * 1024)
#define NAMES      100u     /* so many are tried */

static struct ghost *find_ghost(const struct snapshot *s, dev_t dev, ino_t ino)
{
	for (size_t i = 0; i < s->ghosts.len; i++)
		if (s->ghosts.at[i].dev == dev && s->ghosts.at[i].ino == ino)
			return &s->ghosts.at[i];
	return NULL;
}

void ghost_see(const struct fd_view *v)
{
	struct ghost *g = find_ghost(v->snapshot, v->st.st_dev, v->st.st_ino);

	if (!g) {
		g = vec_add(&v->snapshot->ghosts);
		*g = (struct ghost){
			.id = (uint32_t)v->snapshot->ghosts.len, .dev = v->st.st_dev, .ino = v->st.st_ino,
			.uid = v->st.st_uid, .gid = v->st.st_gid, .mode = v->st.st_mode,
			.size_bytes = (uint64_t)v->st.st_size, .atime = v->st.st_atim, .mtime = v->st.st_mtim,
			.pid = v->pid, .fd = v->task_fd, .start = v->start, .end = v->end,
		};
	}
	vec_push(&g->files, v->id);
}

/* ---- image ---- */

static int open_ghost(const struct ghost *g, int *ret_fd, struct err *err)
{
	char path[96];
	int fd;

	if (g->fd >= 0)
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", g->pid, g->fd);
	else if (g->end == 0)           /* of what is neither open nor mapped only the program is a regular file */
		snprintf(path, sizeof(path), "/proc/%d/exe", g->pid);
	else
		snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", g->pid, (unsigned long long)g->start,
			 (unsigned long long)g->end);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, "open the removed file %s", path);
	*ret_fd = fd;
	return 0;
}

static int copy_out(int fd, uint64_t from, uint64_t to, struct image_writer *w, struct err *err)
{
	own_free char *buf = mem_new(COPY_BYTES);

	while (from < to) {
		size_t want = to - from < COPY_BYTES ? to - from : COPY_BYTES;
		ssize_t n = pread(fd, buf, want, (off_t)from);
		int r;

		if (n < 0)
			return err_sys(err, "read a removed file");
		if (n == 0)
			return err_set(err, EIO, "a removed file became shorter while it was read");
		r = image_put_raw(w, buf, (size_t)n, err);
		if (r < 0)
			return r;
		from += (uint64_t)n;
	}
	return 0;
}

/* A file with holes: only what is there, each piece behind a record that says where.  Others may make it longer meanwhile. */
static int copy_chunks(int fd, uint64_t size, struct image_writer *w, struct err *err)
{
	off_t at = 0;

	while ((at = lseek(fd, at, SEEK_DATA)) >= 0 && (uint64_t)at < size) {
		GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;
		off_t end = lseek(fd, at, SEEK_HOLE);
		int r;

		if (end < 0)
			return err_sys(err, "look for holes in a removed file");
		if ((uint64_t)end > size)
			end = (off_t)size;
		chunk.off = (uint64_t)at;
		chunk.len = (uint64_t)(end - at);
		r = image_put(w, &chunk.base, err);
		if (r == 0)
			r = copy_out(fd, (uint64_t)at, (uint64_t)end, w, err);
		if (r < 0)
			return r;
		at = end;
	}
	return at < 0 && errno != ENXIO ? err_sys(err, "look for data in a removed file") : 0;
}

static int save_ghost(const struct ghost *g, struct store *store, struct err *err)
{
	GhostFileEntry e = GHOST_FILE_ENTRY__INIT;
	Timeval atime = TIMEVAL__INIT, mtime = TIMEVAL__INIT;
	own_writer *w = NULL;
	own_fd fd = -1;
	struct stat st;
	int r = open_ghost(g, &fd, err);

	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return err_sys(err, "stat a removed file");
	e.uid = g->uid, e.gid = g->gid, e.mode = g->mode;
	e.has_dev = e.has_ino = e.has_size = e.has_chunks = 1;
	e.dev = (uint32_t)g->dev, e.ino = g->ino, e.size = g->size_bytes;
	atime.tv_sec = (uint64_t)g->atime.tv_sec, atime.tv_usec = (uint64_t)g->atime.tv_nsec / 1000;
	mtime.tv_sec = (uint64_t)g->mtime.tv_sec, mtime.tv_usec = (uint64_t)g->mtime.tv_nsec / 1000;
	e.atim = &atime, e.mtim = &mtime;
	e.chunks = (uint64_t)st.st_blocks * 512 < g->size_bytes;
	r = image_create(store, IMAGE_GHOST_FILE, g->id, &w, err);
	if (r == 0)
		r = image_put(w, &e.base, err);
	if (r == 0)
		r = e.chunks ? copy_chunks(fd, g->size_bytes, w, err) : copy_out(fd, 0, g->size_bytes, w, err);
	return r < 0 ? r : image_finish(&w, err);
}

int ghost_save(const struct snapshot *s, struct store *store, struct err *err)
{
	own_writer *w = NULL;
	int r;

	if (s->ghosts.len == 0)
		return 0;
	r = image_create(store, IMAGE_REMAP_FPATH, 0, &w, err);
	for (size_t i = 0; r == 0 && i < s->ghosts.len; i++) {
		const struct ghost *g = &s->ghosts.at[i];

		for (size_t k = 0; r == 0 && k < g->files.len; k++) {
			RemapFilePathEntry e = REMAP_FILE_PATH_ENTRY__INIT;

			e.orig_id = g->files.at[k];
			e.remap_id = g->id;
			e.has_remap_type = 1;
			e.remap_type = REMAP_TYPE__GHOST;
			r = image_put(w, &e.base, err);
		}
		if (r == 0)
			r = save_ghost(g, store, err);
	}
	return r < 0 ? r : image_finish(&w, err);
}

static int load_ghost(struct snapshot *s, struct store *store, uint32_t id, struct err *err)
{
	own_reader *reader = NULL;
	own_message GhostFileEntry *e = NULL;
	struct ghost *g;
	int r = image_open(store, IMAGE_GHOST_FILE, id, &reader, err);

	if (r > 0)
		r = IMAGE_GET(reader, ghost_file_entry, &e, err);
	if (r < 0)
		return r;
	if (r == 0)
		return err_set(err, EBADMSG, "the removed file %x is not in the images", id);
	if (!S_ISREG(e->mode) || (e->has_size && e->size > INT64_MAX))
		return err_set(err, EOPNOTSUPP, "removed file %x is of a kind that is not handled yet (mode %o)", id, e->mode);
	if (e->has_size && !(e->has_chunks && e->chunks) && e->size > image_left(reader))
		return err_set(err, EBADMSG, "%s: ends after %llu of %llu bytes of the file", image_name_of(reader),
			       (unsigned long long)image_left(reader), (unsigned long long)e->size);
	g = vec_add(&s->ghosts);
	*g = (struct ghost){
		.id = id, .uid = e->uid, .gid = e->gid, .mode = e->mode,
		.size_bytes = e->has_size ? e->size : image_left(reader),
		.atime.tv_nsec = UTIME_OMIT, .mtime.tv_nsec = UTIME_OMIT,
	};
	if (e->mtim && e->atim) {
		g->atime = (struct timespec){ (time_t)e->atim->tv_sec, (long)(e->atim->tv_usec % 1000000) * 1000 };
		g->mtime = (struct timespec){ (time_t)e->mtim->tv_sec, (long)(e->mtim->tv_usec % 1000000) * 1000 };
	}
	return 0;
}

int ghost_load(struct snapshot *s, struct store *store, struct err *err)
{
	own_reader *reader = NULL;
	int r = image_open(store, IMAGE_REMAP_FPATH, 0, &reader, err);

	while (r > 0) {
		own_message RemapFilePathEntry *e = NULL;

		r = IMAGE_GET(reader, remap_file_path_entry, &e, err);
		if (r <= 0)
			break;
		if (e->has_remap_type && e->remap_type != REMAP_TYPE__GHOST)
			return err_set(err, EOPNOTSUPP, "file %u: remapping of type %d is not handled yet", e->orig_id, e->remap_type);
		if (!snapshot_ghost(s, e->remap_id)) {
			r = load_ghost(s, store, e->remap_id, err);
			if (r < 0)
				return r;
		}
		vec_push(&snapshot_ghost(s, e->remap_id)->files, e->orig_id);
		r = 1;
	}
	return r;
}

/* ---- kernel ---- */

/* A disk that becomes full takes a part first. */
static int write_at(int fd, const uint8_t *buf, size_t len, uint64_t to, struct err *err)
{
	while (len > 0) {
		ssize_t n = pwrite(fd, buf, len, (off_t)to);

		if (n < 0)
			return err_sys(err, "write a removed file");
		buf += n;
		len -= (size_t)n;
		to += (uint64_t)n;
	}
	return 0;
}

static int copy_in(struct image_reader *reader, uint64_t len, int fd, uint64_t to, struct err *err)
{
	own_free uint8_t *buf = mem_new(COPY_BYTES);

	while (len > 0) {
		size_t n = len < COPY_BYTES ? len : COPY_BYTES;
		int r = image_get_raw(reader, buf, n, err);

		if (r == 0)
			r = write_at(fd, buf, n, to, err);
		if (r < 0)
			return r;
		to += n;
		len -= n;
	}
	return 0;
}

static int fill(const struct ghost *g, struct store *store, int fd, struct err *err)
{
	own_reader *reader = NULL;
	own_message GhostFileEntry *e = NULL;
	int r = image_open(store, IMAGE_GHOST_FILE, g->id, &reader, err);

	if (r > 0)
		r = IMAGE_GET(reader, ghost_file_entry, &e, err);
	if (r <= 0)
		return r < 0 ? r : err_set(err, EBADMSG, "the removed file %x is gone from the images", g->id);
	if (!e->has_chunks || !e->chunks)
		return copy_in(reader, image_left(reader), fd, 0, err);
	if (ftruncate(fd, (off_t)g->size_bytes) < 0)
		return err_sys(err, "size a removed file");
	for (;;) {
		own_message GhostChunkEntry *chunk = NULL;

		r = IMAGE_GET(reader, ghost_chunk_entry, &chunk, err);
		if (r <= 0)
			return r;
		if (chunk->off > g->size_bytes || chunk->len > g->size_bytes - chunk->off)
			return err_set(err, EBADMSG, "removed file %x: a piece lies outside of it", g->id);
		r = copy_in(reader, chunk->len, fd, chunk->off, err);
		if (r < 0)
			return r;
	}
}

/* Directories that are gone too, the upper ones first. */
static int create_dirs(const char *path, struct maker *m, struct err *err)
{
	own_free char *dir = mem_str(path);

	for (char *slash = strchr(dir + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(dir, 0700) == 0)
			vec_push(&m->ghost_dirs, mem_str(dir));
		else if (errno != EEXIST)
			return err_sys(err, "create %s for a while", dir);
		*slash = '/';
	}
	return 0;
}

static bool leads_to(const char *path, const struct stat *st)
{
	struct stat at;

	return lstat(path, &at) == 0 && at.st_dev == st->st_dev && at.st_ino == st->st_ino;
}

/*
 * What has our name for it there was left by a restore that was killed, unless it is locked: another one may work there,
 * in another pid namespace, with tasks of the same pid.
 */
static bool remove_leftover(const char *path)
{
	own_fd fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1 && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
	       leads_to(path, &st) && unlink(path) == 0;
}

/* Locked: whoever takes it for a leftover in the instant before has taken its name away. */
static int create_locked(const char *path)
{
	own_fd fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct stat st;

	if (fd < 0)
		return -errno;
	if ((flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) || fstat(fd, &st) < 0 || !leads_to(path, &st))
		return -EEXIST;
	return TAKE_FD(fd);
}

static char *name_for_a_while(const struct maker *m, const struct ghost *g, const char *path, unsigned int try)
{
	pid_t root = m->snapshot->tasks.len > 0 ? m->snapshot->tasks.at[0].pid : 0;
	own_free char *more = try > 0 ? mem_fmt(".%u", try) : mem_str("");

	return mem_fmt("%.*s/.ferry-ghost-%d-%x%s", (int)(strrchr(path, '/') - path), path, root, g->id, more);
}

/* Beside its old name, under the first of ours that is free.  A descriptor or -errno, as all that create. */
static int create_named(const struct maker *m, const struct ghost *g, const char *path, char **ret_path)
{
	for (unsigned int try = 0; try < NAMES; try++) {
		own_free char *at = name_for_a_while(m, g, path, try);
		int fd = create_locked(at);

		if (fd == -EEXIST && remove_leftover(at))
			fd = create_locked(at);
		if (fd >= 0)
			*ret_path = TAKE_PTR(at);
		if (fd != -EEXIST)
			return fd;
	}
	return -EEXIST;
}

/* In the directory where it was; others open it through ferry's descriptor. */
static int create_nameless(const char *path, int flags, char **ret_path)
{
	own_free char *dir = mem_str(path);
	int fd;

	*strrchr(dir, '/') = '\0';
	fd = open(dir[0] ? dir : "/", flags, 0600);
	if (fd < 0)
		return -errno;
	*ret_path = mem_fmt("/proc/self/fd/%d", fd);
	return fd;
}

static int create(const struct ghost *g, const char *path, int tmpfile_flags, struct maker *m, char **ret_path, int *ret_fd,
		  struct err *err)
{
	for (bool again = false;; again = true) {
		int r, fd = tmpfile_flags ? create_nameless(path, tmpfile_flags, ret_path) : create_named(m, g, path, ret_path);

		*ret_fd = fd;
		if (fd >= 0)
			return 0;
		if (again || fd != -ENOENT)
			return err_set(err, -fd, "create a file for a while where %s was: %s", path, strerror(-fd));
		r = create_dirs(path, m, err);
		if (r < 0)
			return r;
	}
}

static int furnish(const struct ghost *g, struct store *store, int fd, const char *path, struct err *err)
{
	const struct timespec times[2] = { g->atime, g->mtime };
	int r = fill(g, store, fd, err);

	if (r < 0)
		return r;
	if (fchown(fd, g->uid, g->gid) < 0 || fchmod(fd, g->mode & 07777) < 0 || futimens(fd, times) < 0)
		return err_sys(err, "set the attributes of %s", path);
	return 0;
}

int ghost_make(uint32_t id, const char *path, int tmpfile_flags, struct maker *m, const char **ret_path, int *ret_fd,
	       struct err *err)
{
	const struct ghost *g = snapshot_ghost_of(m->snapshot, id);
	struct made_ghost *made;
	own_free char *at = NULL;
	own_fd fd = -1;
	int r;

	if (!g)
		return 0;
	for (size_t i = 0; i < m->ghosts.len; i++)
		if (m->ghosts.at[i].id == g->id) {
			*ret_path = m->ghosts.at[i].path;
			return 0;
		}
	r = create(g, path, tmpfile_flags, m, &at, &fd, err);
	if (r < 0)
		return r;
	made = vec_add(&m->ghosts);
	*made = (struct made_ghost){ .id = g->id, .path = TAKE_PTR(at), .fd = TAKE_FD(fd) };
	made->name = tmpfile_flags ? NULL : mem_str(path);
	*ret_path = made->path;
	r = furnish(g, m->store, made->fd, made->path, err);
	if (r == 0 && tmpfile_flags)
		*ret_fd = fcntl(made->fd, F_DUPFD_CLOEXEC, 0);
	return r;
}

/* Its own name once more, for whoever looks at where its descriptors lead; unless another file has that now. */
static void remove_name(const struct made_ghost *g)
{
	if (g->name)
		(void)unlink(renameat2(AT_FDCWD, g->path, AT_FDCWD, g->name, RENAME_NOREPLACE) == 0 ? g->name : g->path);
}

static void remove_names(const struct maker *m)
{
	for (size_t i = m->ghosts.len; i-- > 0;)
		remove_name(&m->ghosts.at[i]);
}

/*
 * Between the two steps it has the program's name, which none of a program's may get by a restore that is killed: a child that no
 * signal of a terminal reaches takes both, and outlives us.  With nothing but system calls: we may have threads.
 */
static void remove_names_whatever_happens(const struct maker *m)
{
	sigset_t all, before;
	pid_t child;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	child = fork();
	if (child <= 0)
		remove_names(m);
	if (child == 0)
		_exit(0);
	while (child > 0 && waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
		;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void tell_if_it_has_a_name(const struct made_ghost *g)
{
	struct stat st;

	if (g->name && fstat(g->fd, &st) == 0 && st.st_nlink > 0)
		log_warn("%s: can't be removed again", g->path);
}

void ghost_remove_all(struct maker *m)
{
	bool named = false;

	for (size_t i = 0; i < m->ghosts.len; i++)
		named |= m->ghosts.at[i].name != NULL;
	if (named)
		remove_names_whatever_happens(m);
	for (size_t i = m->ghosts.len; i-- > 0;) {
		tell_if_it_has_a_name(&m->ghosts.at[i]);
		close(m->ghosts.at[i].fd);
		free(m->ghosts.at[i].path);
		free(m->ghosts.at[i].name);
	}
	vec_free(&m->ghosts);
	for (size_t i = m->ghost_dirs.len; i-- > 0;) {
		if (rmdir(m->ghost_dirs.at[i]) < 0)
			log_warn("%s: can't be removed again", m->ghost_dirs.at[i]);
		free(m->ghost_dirs.at[i]);
	}
	vec_free(&m->ghost_dirs);
}
