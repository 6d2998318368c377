/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/own.h"
#include "image/messages.h"
#include "page/map.h"

#define USER_END   0x800000000000ull
#define CHAIN_MAX  1024u

struct entry { taddr start; uint64_t pages; uint32_t flags; };

static int decode(const PagemapEntry *rec, taddr from, struct entry *ret_entry, struct err *err)
{
	uint64_t pages = rec->has_nr_pages ? rec->nr_pages : rec->compat_nr_pages;
	uint32_t flags = rec->has_flags ? rec->flags : PAGE_HERE;

	if (rec->has_in_parent && rec->in_parent)
		flags = PAGE_PARENT;
	if (rec->vaddr % PAGE_BYTES || rec->vaddr < from || rec->vaddr > USER_END ||
	    pages == 0 || pages > (USER_END - rec->vaddr) / PAGE_BYTES)
		return err_set(err, EBADMSG, "pagemap entry of %llu pages at %#llx is out of place",
			       (unsigned long long)pages, (unsigned long long)rec->vaddr);
	if (!(flags & (PAGE_HERE | PAGE_PARENT)))
		return err_set(err, EBADMSG, "pagemap entry at %#llx says of no place to be in (flags %#x)",
			       (unsigned long long)rec->vaddr, flags);
	*ret_entry = (struct entry){ rec->vaddr, pages, flags };
	return 0;
}

static void add_piece(struct page_map *map, taddr start, uint64_t pages, uint32_t file, uint64_t offset)
{
	struct page_piece *last = map->pieces.len > 0 ? &map->pieces.at[map->pieces.len - 1] : NULL;

	if (last && last->file == file && last->start + last->pages * PAGE_BYTES == start &&
	    last->offset + last->pages * PAGE_BYTES == offset)
		last->pages += pages;
	else
		vec_push(&map->pieces, ((struct page_piece){ .start = start, .pages = pages, .file = file, .offset = offset }));
}

/* The parent's files are taken over once, behind ours. */
static uint32_t adopt_files(struct page_map *map, struct page_map *parent)
{
	uint32_t base = (uint32_t)map->files.len;

	for (size_t i = 0; i < parent->files.len; i++) {
		vec_push(&map->files, parent->files.at[i]);
		parent->files.at[i].fd = -1;
		parent->files.at[i].sums = PAGE_SUMS_NONE;
	}
	return base;
}

/* What the parent has of start..start+pages; all of it or EBADMSG.  *at goes forward only. */
static int add_from_parent(struct page_map *map, const struct page_map *parent, size_t *at, uint32_t base,
			   const struct entry *e, struct err *err)
{
	taddr now = e->start, end = e->start + e->pages * PAGE_BYTES;

	while (now < end) {
		const struct page_piece *p;
		uint64_t skip, take;

		while (*at < parent->pieces.len &&
		       parent->pieces.at[*at].start + parent->pieces.at[*at].pages * PAGE_BYTES <= now)
			(*at)++;
		p = *at < parent->pieces.len ? &parent->pieces.at[*at] : NULL;
		if (!p || p->start > now)
			return err_set(err, EBADMSG, "the page at %#llx is not in the parent directory",
				       (unsigned long long)now);
		skip = (now - p->start) / PAGE_BYTES;
		take = p->pages - skip;
		if (take > (end - now) / PAGE_BYTES)
			take = (end - now) / PAGE_BYTES;
		add_piece(map, now, take, base + p->file, p->offset + skip * PAGE_BYTES);
		now += take * PAGE_BYTES;
	}
	return 0;
}

static int open_pages(const struct store *store, uint64_t id, unsigned int link, struct page_map *map, struct err *err)
{
	struct page_sums sums = PAGE_SUMS_NONE;
	struct stat st;
	own_fd fd = -1;
	int r = store_open_file(store, IMAGE_PAGES, id, &fd, err);

	if (r < 0)
		return r;
	if (r == 0)
		return err_set(err, ENOENT, "pages-%llu.img is missing", (unsigned long long)id);
	if (fstat(fd, &st) < 0)
		return err_sys(err, "stat pages-%llu.img", (unsigned long long)id);
	r = store_is_checked(store) ? page_sums_open(store, id, (uint64_t)st.st_size, &sums, err) : 0;
	if (r < 0)
		return r;
	vec_push(&map->files, ((struct page_file){
		.fd = TAKE_FD(fd), .sums = sums, .id = id, .link = link, .dev = st.st_dev, .ino = st.st_ino,
		.size_bytes = (uint64_t)st.st_size }));
	return 0;
}

struct loading;

static int load(struct store *store, enum image_kind kind, uint64_t id, const struct loading *child,
		struct page_map *map, struct err *err);

struct loading {
	const struct loading *child;    /* the directory that named this one its parent; NULL: the newest */
	struct store *store;
	enum image_kind kind;
	uint64_t id;
	uint64_t offset;                /* in our own pages file */
	struct page_map parent;
	bool parent_loaded;
	size_t parent_at;
	uint32_t parent_base;
};

/* Recursion ends here: at a directory that was there before, and at the end of the longest chain. */
static int check_chain(const struct loading *l, const struct store *up, struct err *err)
{
	struct stat parent, st;
	unsigned int links = 0;

	if (fstat(store_dirfd(up), &parent) < 0)
		return err_sys(err, "parent: stat");
	for (; l; l = l->child) {
		if (fstat(store_dirfd(l->store), &st) < 0)
			return err_sys(err, "parent: stat");
		if (st.st_dev == parent.st_dev && st.st_ino == parent.st_ino)
			return err_set(err, ELOOP, "the chain of parent directories leads back to itself");
		if (++links > CHAIN_MAX)
			return err_set(err, ELOOP, "the chain of parent directories has over %u links", CHAIN_MAX);
	}
	return 0;
}

static int need_parent(struct loading *l, struct page_map *map, struct err *err)
{
	struct store *up;
	int r;

	if (l->parent_loaded)
		return 0;
	r = store_parent(l->store, &up, err);
	if (r < 0)
		return r;
	if (r == 0)
		return err_set(err, EBADMSG, "pages are said to be in a parent directory, but there is none");
	r = check_chain(l, up, err);
	if (r == 0)
		r = load(up, l->kind, l->id, l, &l->parent, err);
	if (r < 0)
		return r;
	l->parent_base = adopt_files(map, &l->parent);
	l->parent_loaded = true;
	return 0;
}

static int add_entry(struct loading *l, const struct entry *e, struct page_map *map, struct err *err)
{
	if (e->flags & PAGE_HERE) {
		if (l->offset > map->files.at[0].size_bytes ||
		    e->pages > (map->files.at[0].size_bytes - l->offset) / PAGE_BYTES)
			return err_set(err, EBADMSG, "the pages file ends before the page at %#llx",
				       (unsigned long long)e->start);
		add_piece(map, e->start, e->pages, 0, l->offset);
		l->offset += e->pages * PAGE_BYTES;
		return 0;
	}
	int r = need_parent(l, map, err);

	return r < 0 ? r : add_from_parent(map, &l->parent, &l->parent_at, l->parent_base, e, err);
}

/* 1: an entry, behind the one that ended at `from`; 0: there are no more. */
static int next_entry(struct image_reader *reader, taddr from, struct entry *ret_entry, struct err *err)
{
	own_message PagemapEntry *rec = NULL;
	int r = IMAGE_GET(reader, pagemap_entry, &rec, err);

	return r > 0 ? decode(rec, from, ret_entry, err) ?: 1 : r;
}

static int load_entries(struct loading *l, struct image_reader *reader, struct page_map *map, struct err *err)
{
	struct entry e;
	taddr from = 0;
	int r;

	while ((r = next_entry(reader, from, &e, err)) > 0) {
		r = add_entry(l, &e, map, err);
		if (r < 0)
			return r;
		from = e.start + e.pages * PAGE_BYTES;
	}
	return r;
}

static int load(struct store *store, enum image_kind kind, uint64_t id, const struct loading *child,
		struct page_map *map, struct err *err)
{
	struct loading l = { .child = child, .store = store, .kind = kind, .id = id };
	own_reader *reader = NULL;
	own_message PagemapHead *head = NULL;
	unsigned int link = 0;
	int r = image_open(store, kind, id, &reader, err);

	if (r <= 0)
		return r;
	for (const struct loading *newer = child; newer; newer = newer->child)
		link++;
	r = IMAGE_GET(reader, pagemap_head, &head, err);
	if (r == 0)
		return err_set(err, EBADMSG, "%s has no head", image_name_of(reader));
	if (r > 0)
		r = open_pages(store, head->pages_id, link, map, err);
	if (r == 0)
		r = load_entries(&l, reader, map, err);
	page_map_free(&l.parent);
	return r < 0 ? r : 1;
}

int page_map_load(struct store *store, enum image_kind kind, uint64_t id, struct page_map *ret_map,
		  struct err *err)
{
	struct page_map map = { 0 };
	int r = load(store, kind, id, NULL, &map, err);

	if (r <= 0)
		page_map_free(&map);
	else
		*ret_map = map;
	return r;
}

static int load_sent(struct image_reader *reader, struct page_map *map, struct err *err)
{
	struct entry e;
	taddr from = 0;
	int r;

	while ((r = next_entry(reader, from, &e, err)) > 0) {
		add_piece(map, e.start, e.pages, 0, e.start);
		from = e.start + e.pages * PAGE_BYTES;
	}
	return r;
}

int page_map_load_sent(const struct store *store, enum image_kind kind, uint64_t id, struct page_map *ret_map, struct err *err)
{
	struct page_map map = { 0 };
	own_reader *reader = NULL;
	int r = image_open(store, kind, id, &reader, err);

	if (r <= 0)
		return r;
	r = load_sent(reader, &map, err);
	if (r < 0)
		page_map_free(&map);
	else
		*ret_map = map;
	return r < 0 ? r : 1;
}

void page_map_close(struct page_map *map)
{
	for (size_t i = 0; i < map->files.len; i++) {
		own_fd_drop(&map->files.at[i].fd);
		map->files.at[i].fd = -1;
		page_sums_close(&map->files.at[i].sums);
	}
}

void page_map_free(struct page_map *map)
{
	page_map_close(map);
	vec_free(&map->files);
	vec_free(&map->pieces);
}

/* Of the task, or in the object: where a page of a file is to be.  False: no piece has it. */
static bool find_address(const struct page_map *map, uint32_t file, uint64_t offset, taddr *ret)
{
	for (size_t i = 0; i < map->pieces.len; i++) {
		const struct page_piece *p = &map->pieces.at[i];

		if (p->file == file && p->offset <= offset && offset - p->offset < p->pages * PAGE_BYTES) {
			*ret = p->start + (offset - p->offset);
			return true;
		}
	}
	return false;
}

static int refuse_page(const struct page_map *map, uint32_t file, uint64_t offset, struct err *err)
{
	const struct page_file *f = &map->files.at[file];
	char where[48] = "", address[48] = "";
	taddr page;

	if (f->link > 0)
		snprintf(where, sizeof(where), " (link %u of the chain)", f->link);
	if (find_address(map, file, offset, &page))
		snprintf(address, sizeof(address), " for %#llx", (unsigned long long)page);
	return err_set(err, EBADMSG, "pages-%llu.img%s: the page at offset %llu%s does not match its checksum",
		       (unsigned long long)f->id, where, (unsigned long long)offset, address);
}

int page_map_read(const struct page_map *map, uint32_t file, uint64_t offset, uint64_t pages, void *buf, struct err *err)
{
	const struct page_file *f = &map->files.at[file];
	size_t len = pages * PAGE_BYTES, done = 0;
	uint64_t bad;
	int r;

	while (done < len) {
		ssize_t got = pread(f->fd, (char *)buf + done, len - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_sys(err, "read pages-%llu.img at offset %llu", (unsigned long long)f->id,
				       (unsigned long long)offset + done);
		if (got == 0)
			return err_set(err, EBADMSG, "pages-%llu.img ends at offset %llu", (unsigned long long)f->id,
				       (unsigned long long)offset + done);
		done += (size_t)got;
	}
	r = page_sums_any(&f->sums) ? page_sums_check(&f->sums, offset / PAGE_BYTES, buf, pages, &bad, err) : 1;
	return r > 0 ? 0 : r < 0 ? r : refuse_page(map, file, offset + bad * PAGE_BYTES, err);
}

size_t page_map_find(const struct page_map *map, taddr at)
{
	size_t low = 0, high = map->pieces.len;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (map->pieces.at[mid].start + map->pieces.at[mid].pages * PAGE_BYTES <= at)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

uint64_t page_map_pages(const struct page_map *map)
{
	uint64_t n = 0;

	for (size_t i = 0; i < map->pieces.len; i++)
		n += map->pieces.at[i].pages;
	return n;
}
