/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "resource/shmem.h"

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#define MFD_EXEC 0x0010U
#endif

#define KNOWN_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC)
#define NAME_MAX_BYTES 249u
#define PREFIX "/memfd:"
#define SUFFIX " (deleted)"
#define ANONYMOUS "/dev/zero"
#define PAGE 4096u

int shmem_open(int fd, unsigned int flags, int *ret_fd, struct err *err)
{
	char path[32];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, (int)flags | O_CLOEXEC);
	if (again < 0)
		return err_sys(err, "open shared memory again");
	*ret_fd = again;
	return 0;
}

/* ---- see ---- */

/* "/memfd:NAME (deleted)" */
static char *name_of(const char *link)
{
	char *name = mem_str(link + strlen(PREFIX));
	size_t len = strlen(name), tail = strlen(SUFFIX);

	if (len >= tail && strcmp(name + len - tail, SUFFIX) == 0)
		name[len - tail] = '\0';
	return name;
}

static void see_place(const struct fd_view *v, struct shmem *o)
{
	o->pid = v->pid;
	if (v->task_fd >= 0)
		snprintf(o->at, sizeof(o->at), "fd/%d", v->task_fd);
	else if (v->end > 0)
		snprintf(o->at, sizeof(o->at), "map_files/%llx-%llx", (unsigned long long)v->start, (unsigned long long)v->end);
	else
		snprintf(o->at, sizeof(o->at), "exe");
}

int shmem_see(const struct fd_view *v, uint32_t *ret_inode_id, struct err *err)
{
	struct snapshot *s = v->snapshot;
	struct shmem *o = snapshot_shmem(s, v->st.st_dev, v->st.st_ino);
	own_fd fd = -1;
	struct statfs fs;
	uint64_t id;
	int seals, r;

	if (o) {
		*ret_inode_id = o->inode_id;
		return 0;
	}
	r = shmem_open(v->fd, O_RDONLY, &fd, err);      /* one of O_PATH can't be asked */
	if (r < 0)
		return r;
	if (fstatfs(fd, &fs) < 0)
		return err_sys(err, "ask for the kind of %s", v->link);
	if (fs.f_type == HUGETLBFS_MAGIC)
		return err_set(err, EOPNOTSUPP, "%s is a memfd of huge pages: not handled yet", v->link);
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0)
		return err_sys(err, "get the seals of %s", v->link);
	id = snapshot_shmem_id(s, v->st.st_ino);
	o = vec_add(&s->shmems);
	*o = (struct shmem){
		.id = id, .inode_id = (uint32_t)s->shmems.len, .name = name_of(v->link),
		.size_bytes = (uint64_t)v->st.st_size, .seals = (uint32_t)seals, .mode = v->st.st_mode & 07777,
		.uid = v->st.st_uid, .gid = v->st.st_gid, .dev = v->st.st_dev, .ino = v->st.st_ino,
	};
	see_place(v, o);
	*ret_inode_id = o->inode_id;
	return 0;
}

/* ---- image ---- */

int shmem_save(const struct snapshot *s, struct store *store, struct err *err)
{
	own_writer *w = NULL;
	int r = 0;

	for (size_t i = 0; i < s->shmems.len && r >= 0; i++) {
		const struct shmem *o = &s->shmems.at[i];
		MemfdInodeEntry rec = MEMFD_INODE_ENTRY__INIT;

		if (!o->inode_id)
			continue;
		rec.name = o->name ? o->name : (char[]){ ANONYMOUS };
		rec.uid = o->uid;
		rec.gid = o->gid;
		rec.size = o->size_bytes;
		rec.shmid = (uint32_t)o->id;
		rec.seals = o->seals;
		rec.inode_id = o->inode_id;
		rec.has_mode = 1;
		rec.mode = S_IFREG | o->mode;
		if (!w)
			r = image_create(store, IMAGE_MEMFD_INODE, 0, &w, err);
		if (r >= 0)
			r = image_put(w, &rec.base, err);
	}
	return r < 0 || !w ? r : image_finish(&w, err);
}

static int check(const MemfdInodeEntry *rec, const struct snapshot *s, struct err *err)
{
	if (rec->inode_id == 0 || rec->inode_id > UINT32_MAX || rec->size > INT64_MAX || rec->seals & ~(uint32_t)KNOWN_SEALS ||
	    strlen(rec->name) > NAME_MAX_BYTES)
		return err_set(err, EBADMSG, "memfd %llu '%.100s': %llu bytes, seals %#x", (unsigned long long)rec->inode_id,
			       rec->name, (unsigned long long)rec->size, rec->seals);
	if (rec->has_hugetlb_flag && rec->hugetlb_flag)
		return err_set(err, EOPNOTSUPP, "memfd '%s' is of huge pages: not handled yet", rec->name);
	for (size_t i = 0; i < s->shmems.len; i++)
		if (s->shmems.at[i].inode_id == rec->inode_id || s->shmems.at[i].id == rec->shmid)
			return err_set(err, EBADMSG, "memfd %llu or its contents %u are there twice",
				       (unsigned long long)rec->inode_id, rec->shmid);
	return 0;
}

/* A memfd may have this name too. */
static bool is_anonymous(const MemfdInodeEntry *rec)
{
	return strcmp(rec->name, ANONYMOUS) == 0 && rec->seals == F_SEAL_SEAL && rec->size > 0 && rec->size % PAGE == 0;
}

int shmem_load(struct snapshot *s, struct store *store, struct err *err)
{
	own_reader *in = NULL;
	int r = image_open(store, IMAGE_MEMFD_INODE, 0, &in, err);

	while (r > 0) {
		own_message MemfdInodeEntry *rec = NULL;

		r = IMAGE_GET(in, memfd_inode_entry, &rec, err);
		if (r > 0 && check(rec, s, err) < 0)
			return -err->code;
		if (r > 0)
			vec_push(&s->shmems, ((struct shmem){
				.id = rec->shmid, .inode_id = (uint32_t)rec->inode_id, .size_bytes = rec->size,
				.name = is_anonymous(rec) ? NULL : mem_str(rec->name), .seals = rec->seals,
				.mode = rec->has_mode ? rec->mode & 07777 : 0777, .uid = rec->uid, .gid = rec->gid }));
	}
	return r;
}

/* ---- make ---- */

/* The kernel has no call for such an object alone: it is mapped, and its file opened through map_files. */
static int make_anonymous(const struct shmem *o, int *ret_fd, struct err *err)
{
	size_t len = o->size_bytes;
	char *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char path[80];

	if (at == MAP_FAILED)
		return err_sys(err, "make shared memory of %zu bytes", len);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)at, (unsigned long)at + len);
	*ret_fd = open(path, O_RDWR | O_CLOEXEC);
	munmap(at, len);
	return *ret_fd < 0 ? err_sys(err, "open shared memory by %s", path) : 0;
}

/* vm.memfd_noexec may forbid what can be run; kernels before 6.3 don't know either flag. */
static int create(const struct shmem *o)
{
	unsigned int exec = o->seals & F_SEAL_EXEC && !(o->mode & 0111) ? MFD_NOEXEC_SEAL : MFD_EXEC;
	int fd = memfd_create(o->name, MFD_CLOEXEC | MFD_ALLOW_SEALING | exec);

	return fd < 0 && errno == EINVAL ? memfd_create(o->name, MFD_CLOEXEC | MFD_ALLOW_SEALING) : fd;
}

int shmem_make(const struct shmem *o, int *ret_fd, struct err *err)
{
	own_fd fd = -1;
	struct stat st;

	if (!o->name)
		return make_anonymous(o, ret_fd, err);
	fd = create(o);
	if (fd < 0)
		return err_sys(err, "make memfd '%s'", o->name);
	if (ftruncate(fd, (off_t)o->size_bytes) < 0)
		return err_sys(err, "give memfd '%s' %llu bytes", o->name, (unsigned long long)o->size_bytes);
	if (fstat(fd, &st) < 0 || ((st.st_uid != o->uid || st.st_gid != o->gid) && fchown(fd, o->uid, o->gid) < 0))
		return err_sys(err, "give memfd '%s' to %u:%u", o->name, o->uid, o->gid);
	if ((st.st_mode & 07777) != o->mode && fchmod(fd, o->mode) < 0)
		return err_sys(err, "give memfd '%s' mode %o", o->name, o->mode);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int shmem_seal(const struct shmem *o, int fd, struct err *err)
{
	int has = fcntl(fd, F_GET_SEALS);

	if (has < 0)
		return err_sys(err, "get the seals of memfd '%s'", o->name);
	if ((uint32_t)has != o->seals && fcntl(fd, F_ADD_SEALS, o->seals) < 0)
		return err_sys(err, "seal memfd '%s' (%#x)", o->name, o->seals);
	return 0;
}
