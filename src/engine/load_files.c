/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/load.h"
#include "image/messages.h"
#include "resource/resource.h"

static int load_file(const FileEntry *rec, struct snapshot *s, struct err *err)
{
	struct file f = { .id = rec->id, .fd = -1, .type = file_type_of_record(rec->type) };
	int r;

	if (!f.type)
		return err_set(err, EOPNOTSUPP, "file %u is of a kind that is not handled yet (type %d)", rec->id, rec->type);
	f.state = mem_new(f.type->state_size);
	f.drop = f.type->drop;
	r = f.type->load(rec, &f, s, err);
	if (r < 0) {
		if (f.drop)
			f.drop(f.state);
		free(f.state);
		return r;
	}
	vec_push(&s->files, f);
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct file *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

int load_files(struct store *store, struct snapshot *s, struct err *err)
{
	own_reader *reader = NULL;
	int r = 0;

	for (size_t i = 0; r == 0 && file_types[i]; i++)
		if (file_types[i]->load_side)
			r = file_types[i]->load_side(s, store, err);
	if (r < 0)
		return r;
	r = image_open(store, IMAGE_FILES, 0, &reader, err);
	if (r == 0)
		return err_set(err, ENOENT, "files.img is missing");
	while (r > 0) {
		own_message FileEntry *rec = NULL;

		r = IMAGE_GET(reader, file_entry, &rec, err);
		if (r > 0 && load_file(rec, s, err) < 0)
			return -err->code;
	}
	if (r < 0)
		return r;
	if (s->files.len > 0)
		qsort(s->files.at, s->files.len, sizeof(*s->files.at), by_id);
	for (size_t i = 1; i < s->files.len; i++)
		if (s->files.at[i - 1].id == s->files.at[i].id)
			return err_set(err, EBADMSG, "files.img: file %u is there twice", s->files.at[i].id);
	return 0;
}

int load_need_file(struct snapshot *s, uint32_t id, const char *what, struct file **ret_file, struct err *err)
{
	struct file *f = snapshot_file(s, id);

	if (!f)
		return err_set(err, EBADMSG, "%s: file %u is not in files.img", what, id);
	f->used = true;
	*ret_file = f;
	return 0;
}

int load_need_path(struct snapshot *s, uint32_t id, const char *what, struct err *err)
{
	struct file *f;
	int r = load_need_file(s, id, what, &f, err);

	if (r == 0 && f->type->record != FD_TYPES__REG)
		return err_set(err, EBADMSG, "%s: file %u has no path (type %d)", what, id, f->type->record);
	return r;
}

static int load_slot(const FdinfoEntry *e, struct snapshot *s, struct task *t, struct err *err)
{
	struct file *f;
	int r;

	if (e->fd >= LOAD_FD_MAX || (t->fds.len > 0 && (int)e->fd <= t->fds.at[t->fds.len - 1].fd))
		return err_set(err, EBADMSG, "fdinfo-%u.img: descriptor %u is out of order", t->files_id, e->fd);
	r = load_need_file(s, e->id, "descriptor", &f, err);
	if (r < 0)
		return r;
	if (f->type->record != (int)e->type)
		return err_set(err, EBADMSG, "fdinfo-%u.img: descriptor %u has type %d, its file %u has %d", t->files_id,
			       e->fd, e->type, e->id, f->type->record);
	vec_push(&t->fds, ((struct fd_slot){ .fd = (int)e->fd, .file = e->id, .cloexec = e->flags & 1 }));
	return 0;
}

static int by_fd(const void *a, const void *b)
{
	const FdinfoEntry *const *x = a, *const *y = b;

	return (*x)->fd < (*y)->fd ? -1 : (*x)->fd > (*y)->fd;
}

/* The image's order is nobody's promise. */
static int load_slots(struct image_reader *reader, struct snapshot *s, struct task *t, struct err *err)
{
	VEC(FdinfoEntry *) all = { 0 };
	FdinfoEntry *e;
	int r;

	while ((r = IMAGE_GET(reader, fdinfo_entry, &e, err)) > 0)
		vec_push(&all, e);
	if (all.len > 0)
		qsort(all.at, all.len, sizeof(*all.at), by_fd);
	for (size_t i = 0; i < all.len; i++) {
		if (r == 0)
			r = load_slot(all.at[i], s, t, err);
		fdinfo_entry__free_unpacked(all.at[i], NULL);
	}
	vec_free(&all);
	return r;
}

int load_fdinfo(struct store *store, struct snapshot *s, struct task *t, struct err *err)
{
	own_reader *reader = NULL;
	int r;

	if (snapshot_shares_table(s, t))
		return 0;
	r = image_open(store, IMAGE_FDINFO, t->files_id, &reader, err);
	return r <= 0 ? r : load_slots(reader, s, t, err);
}
