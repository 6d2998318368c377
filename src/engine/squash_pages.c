/* SPDX-License-Identifier: Apache-2.0 */

#include "base/log.h"
#include "base/own.h"
#include "engine/squash_pages.h"
#include "image/link.h"
#include "image/messages.h"

#define THREADS 2u

/* ---- what there is ---- */

static bool take_name(struct store_names *names, enum image_kind kind, uint64_t id)
{
	for (size_t i = 0; i < names->len; i++)
		if (names->at[i].kind == kind && names->at[i].id == id) {
			names->at[i].kind = IMAGE_KIND_COUNT;
			return true;
		}
	return false;
}

/* A child shares with its parent what that wrote: parents first. */
static int list_in_order(struct squash_pages *s, struct store_names *names, struct err *err)
{
	own_reader *reader = NULL;
	int r = image_open(s->from, IMAGE_PSTREE, 0, &reader, err);

	while (r > 0) {
		own_message PstreeEntry *e = NULL;

		r = IMAGE_GET(reader, pstree_entry, &e, err);
		if (r > 0 && take_name(names, IMAGE_PAGEMAP, e->pid))
			vec_push(&s->maps, ((struct store_name){ IMAGE_PAGEMAP, e->pid }));
	}
	for (size_t i = 0; r == 0 && i < names->len; i++)
		if (image_is_pagemap(names->at[i].kind))
			vec_push(&s->maps, names->at[i]);
	return r;
}

int squash_pages_begin(struct squash_pages *s, struct err *err)
{
	struct store_names names = { 0 };
	int r = store_list(s->from, &names, err);

	if (r == 0)
		r = list_in_order(s, &names, err);
	vec_free(&names);
	for (size_t i = 0; r >= 0 && i < s->maps.len; i++) {
		struct page_map map = { 0 };

		LOG_SCOPE("%s %llu", s->maps.at[i].kind == IMAGE_PAGEMAP ? "task" : "shared memory",
			  (unsigned long long)s->maps.at[i].id);
		r = page_map_load(s->from, s->maps.at[i].kind, s->maps.at[i].id, &map, err);
		s->meter.total += page_map_pages(&map);
		page_map_free(&map);
	}
	s->next_id = 1;
	return r < 0 ? r : 0;
}

/* ---- what is shared ---- */

static void add_run(struct page_runs *plan, const struct page_piece *p, uint64_t skip, uint64_t pages, enum page_where where)
{
	struct page_run *last = plan->len > 0 ? &plan->at[plan->len - 1] : NULL;
	taddr start = p->start + skip * PAGE_BYTES;
	uint64_t from = p->offset + skip * PAGE_BYTES;

	if (last && last->where == where && last->part == p->file && last->start + last->pages * PAGE_BYTES == start &&
	    last->from + last->pages * PAGE_BYTES == from)
		last->pages += pages;
	else
		vec_push(plan, ((struct page_run){ .start = start, .pages = pages, .where = where, .from = from, .part = p->file }));
}

/* Both rise: *at goes forward.  How many pages from `page` on are alike: *ret_same tells whether they are the same. */
static uint64_t compare(const struct squash_task *lender, size_t *at, const struct page_file *f, taddr page, uint64_t pages,
			uint64_t offset, bool *ret_same)
{
	const struct squash_place *p;
	uint64_t left;

	while (*at < lender->places.len && lender->places.at[*at].start + lender->places.at[*at].pages * PAGE_BYTES <= page)
		(*at)++;
	p = *at < lender->places.len ? &lender->places.at[*at] : NULL;
	*ret_same = p && p->start <= page && p->dev == f->dev && p->ino == f->ino && p->offset + (page - p->start) == offset;
	if (!p)
		return pages;
	left = p->start > page ? (p->start - page) / PAGE_BYTES : p->pages - (page - p->start) / PAGE_BYTES;
	return left < pages ? left : pages;
}

/* What `lender` wrote of these pages is PAGE_PARENT, the rest PAGE_HERE: how many are.  No lender: all is here. */
static uint64_t plan_with(const struct page_map *map, const struct squash_task *lender, struct page_runs *plan)
{
	uint64_t shared = 0;
	size_t at = 0;

	for (size_t i = 0; i < map->pieces.len; i++) {
		const struct page_piece *p = &map->pieces.at[i];
		uint64_t n;

		for (uint64_t skip = 0; skip < p->pages; skip += n) {
			bool same = false;

			n = p->pages - skip;
			if (lender)
				n = compare(lender, &at, &map->files.at[p->file], p->start + skip * PAGE_BYTES, n,
					    p->offset + skip * PAGE_BYTES, &same);
			add_run(plan, p, skip, n, same ? PAGE_PARENT : PAGE_HERE);
			shared += same ? n : 0;
		}
	}
	return shared;
}

/* The format has one lender a task: the one that has most. */
static size_t find_lender(const struct squash_pages *s, const struct page_map *map)
{
	size_t best = SIZE_MAX;
	uint64_t most = 0;

	for (size_t i = 0; i < s->owners.len; i++) {
		bool known = false;
		struct page_runs plan = { 0 };
		uint64_t n;

		for (size_t k = 0; k < map->files.len && !known; k++)
			known = s->owners.at[i].dev == map->files.at[k].dev && s->owners.at[i].ino == map->files.at[k].ino;
		if (!known || s->owners.at[i].task == best)
			continue;
		n = plan_with(map, &s->tasks.at[s->owners.at[i].task], &plan);
		vec_free(&plan);
		if (n > most) {
			most = n;
			best = s->owners.at[i].task;
		}
	}
	return best;
}

static void note(struct squash_pages *s, uint64_t id, uint32_t pages_id, const struct page_map *map, const struct page_runs *plan)
{
	struct squash_task *t = vec_add(&s->tasks);

	t->id = id;
	t->pages_id = pages_id;
	for (size_t i = 0; i < plan->len; i++) {
		const struct page_run *run = &plan->at[i];
		const struct page_file *f = &map->files.at[run->part];
		bool known = false;

		if (run->where != PAGE_HERE)
			continue;
		vec_push(&t->places, ((struct squash_place){ run->start, run->pages, f->dev, f->ino, run->from }));
		for (size_t k = 0; k < s->owners.len && !known; k++)
			known = s->owners.at[k].dev == f->dev && s->owners.at[k].ino == f->ino;
		if (!known) {
			vec_add(&s->owners);
			s->owners.at[s->owners.len - 1].dev = f->dev;
			s->owners.at[s->owners.len - 1].ino = f->ino;
			s->owners.at[s->owners.len - 1].task = s->tasks.len - 1;
		}
	}
}

static int lend(struct squash_pages *s, const struct squash_task *lender, uint64_t borrower, struct err *err)
{
	struct page_runs pages = { 0 };
	int r;

	for (size_t i = 0; i < lender->places.len; i++)
		vec_push(&pages, ((struct page_run){ .start = lender->places.at[i].start, .pages = lender->places.at[i].pages }));
	r = cow_lend(&s->cow, borrower, lender->pages_id, &pages, err);
	vec_free(&pages);
	return r;
}

/* ---- moving ---- */

int squash_pages_stopped(const struct squash_pages *s, struct err *err)
{
	sigset_t pending, both;

	sigpending(&pending);
	sigandset(&both, &pending, &s->stop_on);
	return sigisemptyset(&both) ? 0 : err_set(err, EINTR, "interrupted");
}

/* Pieces of a map as a plan has them. */
struct source {
	struct page_source base;
	struct source_map reader;
	const struct page_runs *plan;
	size_t next;
	const struct squash_pages *work;
};

static int next(struct page_source *src, struct page_run *ret_run, struct err *err)
{
	struct source *s = (struct source *)src;

	(void)err;
	if (s->next == s->plan->len)
		return 0;
	*ret_run = s->plan->at[s->next++];
	return 1;
}

static int read_run(struct page_source *src, const struct page_run *run, void *buf, struct err *err)
{
	struct source *s = (struct source *)src;
	int r = squash_pages_stopped(s->work, err);

	return r < 0 ? r : s->reader.base.ops->read(&s->reader.base, run, buf, err);
}

static int pump(struct squash_pages *s, const struct store_name *name, const struct page_map *map,
		const struct page_runs *plan, struct err *err)
{
	static const struct page_source_ops ops = { .next = next, .read = read_run };
	struct source src = { .base = { &ops }, .plan = plan, .work = s };
	struct page_count count = { .meter = &s->meter };
	struct sink_image sink;
	int r = sink_image_open(&sink, s->cow.store, name->kind, name->id, s->next_id, -1, err), closed;

	if (r < 0)
		return r;
	source_map_init(&src.reader, map);
	r = page_pump(&src.base, &sink.base, THREADS, &count, err);
	closed = sink_image_close(&sink, r < 0 ? &(struct err){ 0 } : err);
	s->pages += count.here;
	s->shared_pages += count.parent;
	return r < 0 ? r : closed;
}

/* Map and plan are the stream's then. */
static int note_item(struct squash_pages *s, const struct store_name *name, struct page_map *map, struct page_runs *plan,
		     struct err *err)
{
	struct stream_item item = { .kind = name->kind, .id = name->id, .from = FROM_MAP, .fd = -1, .map = *map, .plan = *plan };
	struct page_count count = { 0 };
	int r;

	*map = (struct page_map){ 0 };
	*plan = (struct page_runs){ 0 };
	r = stream_out_add(s->stream, &item, NULL, &count, err);
	s->pages += count.here;
	s->shared_pages += count.parent;
	return r;
}

static int move(struct squash_pages *s, const struct store_name *name, struct err *err)
{
	struct page_map map = { 0 };
	struct page_runs plan = { 0 };
	size_t lender = SIZE_MAX;
	int r = page_map_load(s->from, name->kind, name->id, &map, err);

	if (r > 0) {
		if (name->kind == IMAGE_PAGEMAP)
			lender = find_lender(s, &map);
		plan_with(&map, lender == SIZE_MAX ? NULL : &s->tasks.at[lender], &plan);
		if (name->kind == IMAGE_PAGEMAP)
			note(s, name->id, s->next_id, &map, &plan);
		r = s->stream ? note_item(s, name, &map, &plan, err) : pump(s, name, &map, &plan, err);
		if (r == 0 && lender != SIZE_MAX)
			r = lend(s, &s->tasks.at[lender], name->id, err);
		s->next_id++;
	}
	vec_free(&plan);
	page_map_free(&map);
	return r;
}

int squash_pages_move(struct squash_pages *s, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->maps.len; i++) {
		LOG_SCOPE("%s %llu", s->maps.at[i].kind == IMAGE_PAGEMAP ? "task" : "shared memory",
			  (unsigned long long)s->maps.at[i].id);
		r = move(s, &s->maps.at[i], err);
	}
	return r < 0 ? r : cow_finish(&s->cow, err);
}

void squash_pages_free(struct squash_pages *s)
{
	for (size_t i = 0; i < s->tasks.len; i++)
		vec_free(&s->tasks.at[i].places);
	vec_free(&s->maps);
	vec_free(&s->tasks);
	vec_free(&s->owners);
	cow_free(&s->cow);
}
