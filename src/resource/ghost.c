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
#include "resource/ghost.h"

#define COPY_BYTES (64u * 1024)

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

/* A file with holes: only what is there, each piece behind a record that says where. */
static int copy_chunks(int fd, uint64_t size, struct image_writer *w, struct err *err)
{
	off_t at = 0;

	while ((at = lseek(fd, at, SEEK_DATA)) >= 0 && (uint64_t)at < size) {
		GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;
		off_t end = lseek(fd, at, SEEK_HOLE);
		int r;

		if (end < 0)
			return err_sys(err, "look for holes in a removed file");
		chunk.off = (uint64_t)at;
		chunk.len = (uint64_t)(end - at);
		r = image_put(w, &chunk.base, err);
		if (r == 0)
			r = copy_out(fd, (uint64_t)at, (uint64_t)end, w, err);
		if (r < 0)
			return r;
		at = end;
	}
	return 0;
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
	g = vec_add(&s->ghosts);
	*g = (struct ghost){
		.id = id, .uid = e->uid, .gid = e->gid, .mode = e->mode,
		.size_bytes = e->has_size ? e->size : image_left(reader),
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

static int copy_in(struct image_reader *reader, uint64_t len, int fd, uint64_t to, struct err *err)
{
	own_free char *buf = mem_new(COPY_BYTES);

	while (len > 0) {
		size_t n = len < COPY_BYTES ? len : COPY_BYTES;
		int r = image_get_raw(reader, buf, n, err);

		if (r < 0)
			return r;
		if (pwrite(fd, buf, n, (off_t)to) != (ssize_t)n)
			return err_sys(err, "write a removed file");
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

/* Directories that are gone too, the upper ones first; how many were made is told on failure too. */
static int create_dirs(const char *path, unsigned int *ret_made, struct err *err)
{
	own_free char *dir = mem_str(path);

	for (char *slash = strchr(dir + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(dir, 0700) == 0)
			(*ret_made)++;
		else if (errno != EEXIST)
			return err_sys(err, "create %s for a while", dir);
		*slash = '/';
	}
	return 0;
}

static void remove_dirs(const char *path, unsigned int count)
{
	own_free char *dir = mem_str(path);

	for (; count > 0; count--) {
		*strrchr(dir, '/') = '\0';
		if (rmdir(dir) < 0)
			log_warn("%s: can't be removed again", dir);
	}
}

/* What has our name for it there was left by a restore that was killed. */
static int create_new(const char *path)
{
	(void)unlink(path);
	return open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static char *name_for_a_while(const struct snapshot *s, const struct ghost *g, const char *path)
{
	pid_t root = s->tasks.len > 0 ? s->tasks.at[0].pid : 0;

	return mem_fmt("%.*s/.ferry-ghost-%d-%x", (int)(strrchr(path, '/') - path), path, root, g->id);
}

static int create(const struct snapshot *s, const struct ghost *g, const char *path, char **ret_path,
		  unsigned int *ret_dirs, int *ret_fd, struct err *err)
{
	own_free char *at = name_for_a_while(s, g, path);
	unsigned int dirs = 0;
	int fd = create_new(at), r = 0;

	if (fd < 0 && errno == ENOENT) {
		r = create_dirs(at, &dirs, err);
		fd = r == 0 ? create_new(at) : -1;
	}
	if (r == 0 && fd < 0)
		r = err_sys(err, "create %s for a while", at);
	if (r < 0) {
		remove_dirs(at, dirs);
		return r;
	}
	*ret_path = TAKE_PTR(at);
	*ret_dirs = dirs;
	*ret_fd = fd;
	return 0;
}

static const struct ghost *ghost_of_file(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; i < s->ghosts.len; i++)
		for (size_t k = 0; k < s->ghosts.at[i].files.len; k++)
			if (s->ghosts.at[i].files.at[k] == id)
				return &s->ghosts.at[i];
	return NULL;
}

/* In the directory where it was; others open it through ferry's descriptor. */
static int create_nameless(const char *path, int flags, char **ret_path, int *ret_fd, struct err *err)
{
	own_free char *dir = mem_str(path);
	int fd;

	*strrchr(dir, '/') = '\0';
	fd = open(dir[0] ? dir : "/", (flags & ~O_ACCMODE) | O_RDWR, 0600);
	if (fd < 0)
		return err_sys(err, "create a file without a name in %s", dir);
	*ret_path = mem_fmt("/proc/self/fd/%d", fd);
	*ret_fd = fd;
	return 0;
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
	const struct ghost *g = ghost_of_file(m->snapshot, id);
	own_free char *at = NULL;
	unsigned int dirs = 0;
	own_fd fd = -1;
	int r;

	if (!g)
		return 0;
	for (size_t i = 0; i < m->ghosts.len; i++)
		if (m->ghosts.at[i].id == g->id) {
			*ret_path = m->ghosts.at[i].path;
			return 0;
		}
	r = tmpfile_flags ? create_nameless(path, tmpfile_flags, &at, &fd, err) :
			    create(m->snapshot, g, path, &at, &dirs, &fd, err);
	if (r < 0)
		return r;
	vec_add(&m->ghosts);
	m->ghosts.at[m->ghosts.len - 1].id = g->id;
	m->ghosts.at[m->ghosts.len - 1].fd = -1;
	m->ghosts.at[m->ghosts.len - 1].dirs = dirs;
	m->ghosts.at[m->ghosts.len - 1].name = tmpfile_flags ? NULL : mem_str(path);
	*ret_path = m->ghosts.at[m->ghosts.len - 1].path = TAKE_PTR(at);
	r = furnish(g, m->store, fd, *ret_path, err);
	if (r < 0 || !tmpfile_flags)
		return r;
	m->ghosts.at[m->ghosts.len - 1].fd = TAKE_FD(fd);       /* what its path leads through */
	if ((tmpfile_flags & O_ACCMODE) == O_RDWR)
		*ret_fd = fcntl(m->ghosts.at[m->ghosts.len - 1].fd, F_DUPFD_CLOEXEC, 0);
	return 0;
}

/* Its own name once more, for whoever looks at where its descriptors lead; unless another file has that now. */
static void remove_one(const char *at, const char *name)
{
	if (unlink(renameat2(AT_FDCWD, at, AT_FDCWD, name, RENAME_NOREPLACE) == 0 ? name : at) < 0)
		log_warn("%s: can't be removed again", at);
}

void ghost_remove_all(struct maker *m)
{
	for (size_t i = m->ghosts.len; i-- > 0;) {
		if (m->ghosts.at[i].name)
			remove_one(m->ghosts.at[i].path, m->ghosts.at[i].name);
		if (m->ghosts.at[i].fd >= 0)
			close(m->ghosts.at[i].fd);
		remove_dirs(m->ghosts.at[i].path, m->ghosts.at[i].dirs);
		free(m->ghosts.at[i].path);
		free(m->ghosts.at[i].name);
	}
	vec_free(&m->ghosts);
}
