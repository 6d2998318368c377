/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/own.h"
#include "base/vec.h"
#include "front/chain.h"
#include "front/describe.h"
#include "front/pages.h"
#include "front/summary.h"
#include "front/words.h"
#include "image/messages.h"

#define PAGE_BYTES  4096u
#define NO_PARENT   SIZE_MAX
#define NAME_SHOWN  16          /* of a task */

struct shown_task {
	uint32_t pid, ppid, pgid, sid;
	size_t threads, parent, order;          /* order: its place in the image; parent: an index, or NO_PARENT */
	unsigned int depth;
	char comm[NAME_SHOWN + 1];
	uint32_t state, exit_code;
	uint32_t files_id;                      /* 0: none */
};

struct shown_image { enum image_kind kind; uint64_t id, len_bytes; };

struct summary {
	struct store *store;
	FILE *out;
	VEC(struct shown_task) tasks;           /* in order of pid */
	VEC(struct shown_image) images;         /* in order of kind and id */
	VEC(FileEntry *) files;                 /* in order of id; owned */
};

/* ---- small helpers ---- */

static int by_pid(const void *a, const void *b)
{
	const struct shown_task *x = a, *y = b;

	return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static int by_file_id(const void *a, const void *b)
{
	const FileEntry *x = *(FileEntry *const *)a, *y = *(FileEntry *const *)b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static struct shown_task *find_task(struct summary *s, uint64_t pid)
{
	struct shown_task key = { .pid = (uint32_t)pid };

	if (s->tasks.len == 0 || pid > UINT32_MAX)
		return NULL;
	return bsearch(&key, s->tasks.at, s->tasks.len, sizeof(key), by_pid);
}

static const FileEntry *find_file(const struct summary *s, uint32_t id)
{
	FileEntry key = { .id = id }, *at = &key, **found;

	found = s->files.len == 0 ? NULL : bsearch(&at, s->files.at, s->files.len, sizeof(at), by_file_id);
	return found ? *found : NULL;
}

/* ---- reading ---- */

static int load_images(struct summary *s, struct err *err)
{
	struct store_names names = { 0 };
	int r = store_list(s->store, &names, err);

	for (size_t i = 0; i < names.len; i++) {
		char name[IMAGE_NAME_MAX];
		struct stat st;

		image_file_name(names.at[i].kind, names.at[i].id, name);
		if (fstatat(store_dirfd(s->store), name, &st, 0) == 0)
			vec_push(&s->images, ((struct shown_image){ names.at[i].kind, names.at[i].id, (uint64_t)st.st_size }));
	}
	vec_free(&names);
	return r;
}

static int load_core(struct summary *s, struct shown_task *task, struct err *err)
{
	own_message CoreEntry *core = NULL;
	own_message TaskKobjIdsEntry *ids = NULL;
	int r;

	r = IMAGE_READ_ONE(s->store, IMAGE_CORE, task->pid, core_entry, &core, err);
	if (r >= 0)
		r = IMAGE_READ_ONE(s->store, IMAGE_IDS, task->pid, task_kobj_ids_entry, &ids, err);
	if (r < 0)
		return r;
	if (core && core->tc) {
		snprintf(task->comm, sizeof(task->comm), "%s", core->tc->comm);
		task->state = core->tc->task_state;
		task->exit_code = core->tc->exit_code;
	}
	if (ids || (core && core->ids))
		task->files_id = ids ? ids->files_id : core->ids->files_id;
	return 0;
}

/* Parents come before their children in the image: that order is kept to tell a child from a loop. */
static void link_tasks(struct summary *s)
{
	if (s->tasks.len > 1)
		qsort(s->tasks.at, s->tasks.len, sizeof(*s->tasks.at), by_pid);
	for (size_t i = 0; i < s->tasks.len; i++) {
		struct shown_task *task = &s->tasks.at[i], *parent = find_task(s, task->ppid);

		task->parent = parent && parent->order < task->order ? (size_t)(parent - s->tasks.at) : NO_PARENT;
	}
}

static int load_tasks(struct summary *s, struct err *err)
{
	own_reader *reader = NULL;
	int r;

	r = image_open(s->store, IMAGE_PSTREE, 0, &reader, err);
	while (r > 0) {
		own_message PstreeEntry *entry = NULL;

		r = IMAGE_GET(reader, pstree_entry, &entry, err);
		if (r <= 0)
			break;
		vec_push(&s->tasks, ((struct shown_task){ .pid = entry->pid, .ppid = entry->ppid, .pgid = entry->pgid,
			.sid = entry->sid, .threads = entry->n_threads, .order = s->tasks.len }));
		r = load_core(s, &s->tasks.at[s->tasks.len - 1], err);
		r = r < 0 ? r : 1;
	}
	if (r == 0)
		link_tasks(s);
	return r;
}

static int load_files(struct summary *s, struct err *err)
{
	own_reader *reader = NULL;
	FileEntry *file = NULL;
	int r;

	r = image_open(s->store, IMAGE_FILES, 0, &reader, err);
	while (r > 0 && (r = IMAGE_GET(reader, file_entry, &file, err)) > 0)
		vec_push(&s->files, file);
	if (r == 0 && s->files.len > 1)
		qsort(s->files.at, s->files.len, sizeof(*s->files.at), by_file_id);
	return r;
}

/* ---- images, tasks ---- */

static int print_images(struct summary *s, struct err *err)
{
	own_message InventoryEntry *inventory = NULL;
	own_fd sums = -1;
	int r;

	r = IMAGE_READ_ONE(s->store, IMAGE_INVENTORY, 0, inventory_entry, &inventory, err);
	if (r >= 0)
		r = store_open_file(s->store, IMAGE_FERRY_CHECKSUMS, 0, &sums, err);
	if (r < 0)
		return r;
	fprintf(s->out, "Images: %zu, ", s->images.len);
	if (inventory)
		fprintf(s->out, "format %u", inventory->img_version);
	else
		fputs("no inventory", s->out);
	fputs(r > 0 ? ", all match their checksums\n" : ", without checksums\n", s->out);
	return 0;
}

static void print_task(struct summary *s, const struct shown_task *task)
{
	static const char *const states[] = { [1] = "alive", [2] = "dead", [3] = "stopped", [6] = "zombie" };
	const char *state = task->state < ARRAY_LEN(states) && states[task->state] ? states[task->state] : "state unknown";
	unsigned int depth = task->depth < 20 ? task->depth : 20;

	fprintf(s->out, "  %*s%u ", (int)depth * 2, "", task->pid);
	describe_text(s->out, task->comm, strlen(task->comm));
	fprintf(s->out, "  %s", state);
	if (task->state == 6)
		fprintf(s->out, " (status %#x)", task->exit_code);
	fprintf(s->out, ", %zu thread%s, group %u, session %u\n", task->threads, task->threads == 1 ? "" : "s", task->pgid,
		task->sid);
}

/* From a parent straight to its children, however the image orders them; no recursion, trees may be deep. */
static void print_tasks(struct summary *s)
{
	size_t n = s->tasks.len, threads = 0, stacked = 0;
	own_free size_t *first = NULL, *next = NULL, *stack = NULL;

	first = malloc((n + 1) * sizeof(*first));
	next = malloc((n + 1) * sizeof(*next));
	stack = malloc((n + 1) * sizeof(*stack));
	if (!first || !next || !stack)
		abort();
	for (size_t i = 0; i <= n; i++)
		first[i] = next[i] = NO_PARENT;
	for (size_t i = 0; i < n; i++) {
		size_t parent = s->tasks.at[i].parent == NO_PARENT ? n : s->tasks.at[i].parent;

		next[i] = first[parent];
		first[parent] = i;
		threads += s->tasks.at[i].threads;
	}
	fprintf(s->out, "Tasks: %zu, threads: %zu\n", n, threads);
	for (size_t at = n; ; at = stack[--stacked]) {
		unsigned int depth = at == n ? 0 : s->tasks.at[at].depth + 1;

		if (at != n)
			print_task(s, &s->tasks.at[at]);
		for (size_t child = first[at]; child != NO_PARENT; child = next[child]) {
			s->tasks.at[child].depth = depth;
			stack[stacked++] = child;
		}
		if (stacked == 0)
			break;
	}
}

/* ---- memory ---- */

/* The pages file: its size; what was punched out of it; whether it has what the pagemap says. */
static int print_pages_file(struct summary *s, uint32_t pages_id, const struct pages *pages, struct err *err)
{
	char name[IMAGE_NAME_MAX], text[16];
	struct stat st = { 0 };
	own_fd fd = -1;
	int r;

	image_file_name(IMAGE_PAGES, pages_id, name);
	r = store_open_file(s->store, IMAGE_PAGES, pages_id, &fd, err);
	if (r < 0)
		return r;
	if (r == 0) {
		fprintf(s->out, pages->here ? "; %s is MISSING\n" : "\n", name);
		return 0;
	}
	if (fstat(fd, &st) < 0)
		return err_sys(err, "%s: stat", name);
	fprintf(s->out, "; %s", name);
	if ((uint64_t)st.st_size / PAGE_BYTES < pages->here)
		fputs(" is TOO SHORT", s->out);
	if ((uint64_t)st.st_blocks * 512 < (uint64_t)st.st_size)
		fprintf(s->out, " with holes of %s", size_text((uint64_t)st.st_size - (uint64_t)st.st_blocks * 512, text));
	fputc('\n', s->out);
	return 0;
}

static int print_space(struct summary *s, const struct shown_image *image, struct pages *total, struct err *err)
{
	const struct shown_task *task = image->kind == IMAGE_PAGEMAP ? find_task(s, image->id) : NULL;
	own_message MmEntry *mm = NULL;
	struct pages pages = { 0 };
	uint64_t mapped_bytes = 0;
	uint32_t pages_id = 0;
	char text[16];
	int r;

	r = pages_count(s->store, image->kind, image->id, &pages_id, &pages, err);
	if (r >= 0 && image->kind == IMAGE_PAGEMAP)
		r = IMAGE_READ_ONE(s->store, IMAGE_MM, image->id, mm_entry, &mm, err);
	if (r < 0)
		return r;
	for (size_t i = 0; mm && i < mm->n_vmas; i++)
		mapped_bytes += mm->vmas[i]->end - mm->vmas[i]->start;
	fprintf(s->out, "  %s%" PRIu64 " ", image->kind == IMAGE_PAGEMAP ? "" : "shared ", image->id);
	if (task)
		describe_text(s->out, task->comm, strlen(task->comm));
	fputs(":", s->out);
	if (mm)
		fprintf(s->out, " %zu mapping%s of %s;", mm->n_vmas, mm->n_vmas == 1 ? "" : "s", size_text(mapped_bytes, text));
	fprintf(s->out, " %" PRIu64 " pages here (%s)", pages.here, size_text(pages.here * PAGE_BYTES, text));
	if (pages.parent)
		fprintf(s->out, ", %" PRIu64 " in the parent", pages.parent);
	if (pages.lazy)
		fprintf(s->out, ", %" PRIu64 " lazy", pages.lazy);
	total->here += pages.here;
	total->parent += pages.parent;
	total->lazy += pages.lazy;
	return print_pages_file(s, pages_id, &pages, err);
}

static int print_memory(struct summary *s, struct pages *total, struct err *err)
{
	int r = 0;

	fputs("Memory\n", s->out);
	for (size_t i = 0; i < s->images.len && r == 0; i++)
		if (image_is_pagemap(s->images.at[i].kind))
			r = print_space(s, &s->images.at[i], total, err);
	return r;
}

/* ---- files ---- */

static void print_descriptor(struct summary *s, const FdinfoEntry *fd)
{
	const FileEntry *file = find_file(s, fd->id);
	char kind[16];

	describe_kind(fd->type, kind);
	fprintf(s->out, "    %4u  %-9s  ", fd->fd, kind);
	if (file)
		describe_file(s->out, file);
	else
		fprintf(s->out, "file %u is MISSING", fd->id);
	fputs(fd->flags & FD_CLOEXEC ? ", cloexec\n" : "\n", s->out);
}

static int print_table(struct summary *s, uint32_t files_id, struct err *err)
{
	own_reader *reader = NULL;
	int r;

	fprintf(s->out, "  table %u of", files_id);
	for (size_t i = 0; i < s->tasks.len; i++)
		if (s->tasks.at[i].files_id == files_id)
			fprintf(s->out, " %u", s->tasks.at[i].pid);
	fputc('\n', s->out);
	r = image_open(s->store, IMAGE_FDINFO, files_id, &reader, err);
	while (r > 0) {
		own_message FdinfoEntry *fd = NULL;

		r = IMAGE_GET(reader, fdinfo_entry, &fd, err);
		if (r > 0)
			print_descriptor(s, fd);
	}
	return r;
}

static int print_files(struct summary *s, struct err *err)
{
	int r = 0;

	fprintf(s->out, "Files: %zu\n", s->files.len);
	for (size_t i = 0; i < s->images.len && r == 0; i++)
		if (s->images.at[i].kind == IMAGE_FDINFO && s->images.at[i].id <= UINT32_MAX)
			r = print_table(s, (uint32_t)s->images.at[i].id, err);
	return r;
}

/* ---- all of it ---- */

static void print_total(struct summary *s, const struct pages *pages)
{
	uint64_t pages_bytes = 0, other_bytes = 0;
	char text[2][16];

	for (size_t i = 0; i < s->images.len; i++)
		*(s->images.at[i].kind == IMAGE_PAGES ? &pages_bytes : &other_bytes) += s->images.at[i].len_bytes;
	fprintf(s->out, "Total: %" PRIu64 " pages here, %" PRIu64 " in the parent, %" PRIu64 " lazy; pages files %s, other images %s\n",
		pages->here, pages->parent, pages->lazy, size_text(pages_bytes, text[0]), size_text(other_bytes, text[1]));
}

static int print_all(struct summary *s, struct err *err)
{
	struct pages total = { 0 };
	int r = load_images(s, err);

	r = r < 0 ? r : load_tasks(s, err);
	r = r < 0 ? r : load_files(s, err);
	r = r < 0 ? r : print_images(s, err);
	if (r < 0)
		return r;
	if (s->tasks.len > 0)
		print_tasks(s);
	r = print_memory(s, &total, err);
	if (r == 0 && s->files.len > 0)
		r = print_files(s, err);
	r = r < 0 ? r : chain_print(s->store, s->out, err);
	if (r < 0)
		return r;
	print_total(s, &total);
	return ferror(s->out) ? err_set(err, EIO, "can't print it all") : 0;
}

int summary_print(struct store *store, FILE *out, struct err *err)
{
	struct summary s = { .store = store, .out = out };
	int r = print_all(&s, err);

	for (size_t i = 0; i < s.files.len; i++)
		file_entry__free_unpacked(s.files.at[i], NULL);
	vec_free(&s.files);
	vec_free(&s.images);
	vec_free(&s.tasks);
	return r;
}
