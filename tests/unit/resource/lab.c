/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc.h"
#include "kernel/proc_fdinfo.h"
#include "lab.h"
#include "resource/shmem.h"

#define OK(lab, call) do {                                                            \
		int ok_r_ = (call);                                                   \
		if (ok_r_ < 0)                                                        \
			fail_msg("%s: %d (%s)", #call, ok_r_, (lab)->err.text);       \
	} while (0)

int lab_setup(void **state)
{
	struct lab *lab = mem_new(sizeof(*lab));
	struct task *task = vec_add(&lab->seen.tasks);

	strcpy(lab->dir, "/tmp/ferry-lab-XXXXXX");
	assert_non_null(mkdtemp(lab->dir));
	task->pid = getpid();
	task->state = TASK_ALIVE;
	lab->maker.snapshot = &lab->back;
	*state = lab;
	return 0;
}

static void forget_made(struct lab *lab)
{
	for (size_t i = 0; i < lab->maker.fds.len; i++)
		if (lab->maker.fds.at[i] >= 0)
			close(lab->maker.fds.at[i]);
	for (size_t i = 0; i < lab->maker.pipes.len; i++) {
		close(lab->maker.pipes.at[i].read_fd);
		if (lab->maker.pipes.at[i].write_fd >= 0)
			close(lab->maker.pipes.at[i].write_fd);
	}
	for (size_t i = 0; i < lab->maker.shmems.len; i++)
		close(lab->maker.shmems.at[i]);
	vec_free(&lab->maker.fds);
	vec_free(&lab->maker.pipes);
	vec_free(&lab->maker.shmems);
}

int lab_teardown(void **state)
{
	struct lab *lab = *state;
	own_free char *command = mem_fmt("rm -rf '%s'", lab->dir);

	forget_made(lab);
	snapshot_free(&lab->seen);
	snapshot_free(&lab->back);
	assert_int_equal(system(command), 0);
	free(lab);
	return 0;
}

static void view(struct lab *lab, int fd, struct fd_view *v, char *info, size_t info_bytes)
{
	char path[32];
	uint64_t pos;

	memset(v, 0, sizeof(*v));
	v->snapshot = &lab->seen;
	v->pid = getpid();
	v->task_fd = v->fd = fd;
	v->id = lab->seen.files.len > 0 ? lab->seen.files.at[lab->seen.files.len - 1].id + 1 : 1;
	v->flags = (unsigned int)fcntl(fd, F_GETFL);
	snprintf(path, sizeof(path), "fd/%d", fd);
	OK(lab, proc_link(getpid(), path, v->link, sizeof(v->link), &lab->err));
	OK(lab, proc_fdinfo_text(getpid(), fd, info, info_bytes, &lab->err));
	OK(lab, fdinfo_u64(info, "pos", 10, &pos, &lab->err));
	v->pos = pos;
	v->info = info;
	assert_int_equal(fstat(fd, &v->st), 0);
}

const struct file_type *lab_claimed_by(struct lab *lab, int fd)
{
	const struct file_type *by = NULL;
	struct fd_view v;
	char info[65536];

	view(lab, fd, &v, info, sizeof(info));
	for (size_t i = 0; file_types[i]; i++)
		if (file_types[i]->claims(&v)) {
			if (by)
				fail_msg("%s is claimed by %s and by %s", v.link, by->name, file_types[i]->name);
			by = file_types[i];
		}
	return by;
}

static void forget(const struct file_type *type, void *state)
{
	if (type->drop)
		type->drop(state);
	free(state);
}

static int see(struct lab *lab, int fd, struct file *ret)
{
	struct fd_view v;
	char info[65536];
	int r;

	*ret = (struct file){ .type = lab_claimed_by(lab, fd) };
	assert_non_null(ret->type);
	view(lab, fd, &v, info, sizeof(info));
	ret->id = v.id;
	ret->flags = v.flags;
	ret->pid = v.pid;
	ret->fd = v.task_fd;
	ret->dev = v.st.st_dev;
	ret->ino = v.st.st_ino;
	ret->state = mem_new(ret->type->state_size);
	ret->drop = ret->type->drop;
	r = ret->type->see(&v, ret->state, &lab->err);
	if (r < 0)
		forget(ret->type, ret->state);
	return r;
}

int lab_try_see(struct lab *lab, int fd)
{
	struct fd_slot slot = { .fd = fd };
	struct task *task = &lab->seen.tasks.at[0];
	struct file f;
	int r = see(lab, fd, &f);

	if (r < 0)
		return r;
	vec_push(&lab->seen.files, f);
	slot.file = f.id;
	vec_push(&task->fds, slot);
	for (size_t i = task->fds.len - 1; i > 0 && task->fds.at[i - 1].fd > fd; i--) {
		task->fds.at[i] = task->fds.at[i - 1];
		task->fds.at[i - 1] = slot;
	}
	return 0;
}

struct file *lab_see(struct lab *lab, int fd)
{
	OK(lab, lab_try_see(lab, fd));
	return &lab->seen.files.at[lab->seen.files.len - 1];
}


/* As bytes and back. */
static FileEntry *through_bytes(const FileEntry *rec)
{
	size_t len = file_entry__get_packed_size(rec);
	own_free uint8_t *bytes = mem_new(len);
	ProtobufCMessage *back;

	file_entry__pack(rec, bytes);
	back = record_unpack(&file_entry__descriptor, bytes, len);
	assert_non_null(back);
	return (FileEntry *)(void *)back;
}

static FileEntry *record(const struct file *f, bool also)
{
	own_message FileEntry *rec = mem_new(sizeof(*rec));

	file_entry__init(rec);
	rec->type = (FdTypes)f->type->record;
	rec->id = f->id;
	if (also)
		f->type->save_also(f, rec);
	else
		f->type->save(f, rec);
	return through_bytes(rec);
}

FileEntry *lab_record(const struct file *f)
{
	return record(f, false);
}

void lab_equal(const struct file *a, const struct file *b)
{
	struct file c = *b;

	assert_ptr_equal(a->type, b->type);
	c.id = a->id;
	own_message FileEntry *x = record(a, false), *y = record(&c, false);
	size_t len = file_entry__get_packed_size(x);

	assert_int_equal(file_entry__get_packed_size(y), len);
	own_free uint8_t *xs = mem_new(len), *ys = mem_new(len);

	file_entry__pack(x, xs);
	file_entry__pack(y, ys);
	assert_memory_equal(xs, ys, len);
}

void lab_is(struct lab *lab, int fd, const struct file *f)
{
	struct file is;

	OK(lab, see(lab, fd, &is));
	is.fown = f->fown;
	lab_equal(f, &is);
	forget(is.type, is.state);
}

int lab_try_load(struct lab *lab, const FileEntry *rec)
{
	const struct file_type *type = file_type_of_record(rec->type);
	struct file f = { .id = rec->id, .type = type, .fd = -1 };
	int r;

	assert_non_null(type);
	f.state = mem_new(type->state_size);
	f.drop = type->drop;
	r = type->load(rec, &f, &lab->back, &lab->err);
	if (r < 0)
		forget(type, f.state);
	else
		vec_push(&lab->back.files, f);
	return r;
}

static int by_id(const void *a, const void *b)
{
	const struct file *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

static void save_side(struct lab *lab, const char *dir)
{
	own_store *store = NULL;

	OK(lab, store_create_dir(dir, &store, &lab->err));
	for (size_t i = 0; file_types[i]; i++)
		if (file_types[i]->save_side)
			OK(lab, file_types[i]->save_side(&lab->seen, store, &lab->err));
	OK(lab, store_seal(store, &lab->err));
}

static void load_side(struct lab *lab, const char *dir)
{
	own_store *store = NULL;

	OK(lab, store_open_dir(dir, &store, &lab->err));
	for (size_t i = 0; file_types[i]; i++)
		if (file_types[i]->load_side)
			OK(lab, file_types[i]->load_side(&lab->back, store, &lab->err));
}

void lab_save_and_load(struct lab *lab)
{
	own_free char *dir = mem_fmt("%s/images", lab->dir);

	for (size_t i = 0; i < lab->seen.files.len; i++)
		if (lab->seen.files.at[i].type->resolve)
			OK(lab, lab->seen.files.at[i].type->resolve(&lab->seen.files.at[i], &lab->seen, &lab->err));
	save_side(lab, dir);
	load_side(lab, dir);
	for (size_t i = 0; i < lab->seen.files.len; i++)
		for (int also = 1; also >= 0; also--) {
			const struct file *f = &lab->seen.files.at[i];

			if (also && !f->type->save_also)
				continue;
			own_message FileEntry *rec = record(f, also);

			assert_int_equal(rec->id, also ? f->id | FILE_ID_ALSO : f->id);
			OK(lab, lab_try_load(lab, rec));
		}
	qsort(lab->back.files.at, lab->back.files.len, sizeof(struct file), by_id);
	struct task *task = vec_add(&lab->back.tasks);

	for (size_t i = 0; i < lab->seen.tasks.at[0].fds.len; i++)
		vec_push(&task->fds, lab->seen.tasks.at[0].fds.at[i]);
}

void lab_make(struct lab *lab)
{
	const struct snapshot *s = &lab->back;

	for (size_t i = 0; i < s->shmems.len; i++) {
		int fd;

		OK(lab, shmem_make(&s->shmems.at[i], &fd, &lab->err));
		vec_push(&lab->maker.shmems, fd);
	}
	for (size_t i = 0; i < s->files.len; i++) {
		const struct file *f = &s->files.at[i];
		int fd = -1;

		if (!(f->id & FILE_ID_ALSO)) {
			OK(lab, f->type->make(f, &lab->maker, &fd, &lab->err));
			assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
			assert_true(f->flags & O_PATH || fcntl(fd, F_SETFL, f->flags) == 0);
		}
		vec_push(&lab->maker.fds, fd);
	}
	for (size_t i = 0; i < s->files.len; i++)
		if (s->files.at[i].type->attach)
			OK(lab, s->files.at[i].type->attach(&s->files.at[i], &lab->maker, &lab->err));
	for (size_t i = 0; i < s->shmems.len; i++)
		if (s->shmems.at[i].name)
			OK(lab, shmem_seal(&s->shmems.at[i], lab->maker.shmems.at[i], &lab->err));
}

int lab_fd(const struct lab *lab, uint32_t id)
{
	const struct file *f = snapshot_file(&lab->back, id);

	assert_non_null(f);
	return lab->maker.fds.at[f - lab->back.files.at];
}
