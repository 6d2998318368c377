/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/log.h"
#include "engine/load.h"
#include "engine/vdso.h"

/* Which mapping has this page; they rise, as pages do: *at goes forward. */
const struct vma *load_vma_at(const struct task *t, taddr page, size_t *at)
{
	while (*at < t->mm.vmas.len && t->mm.vmas.at[*at].end <= page)
		(*at)++;
	return *at < t->mm.vmas.len && t->mm.vmas.at[*at].start <= page ? &t->mm.vmas.at[*at] : NULL;
}

static void push(struct page_map *map, taddr start, uint64_t pages, uint32_t file, uint64_t offset)
{
	vec_push(&map->pieces, ((struct page_piece){ .start = start, .pages = pages, .file = file, .offset = offset }));
}

/* Cuts pieces at the borders of mappings; every page must be in a private one.  The vdso's go their own way. */
static int cut(const struct task *t, const struct page_map *map, struct loaded_pages *out, struct err *err)
{
	size_t at = 0;

	for (size_t i = 0; i < map->pieces.len; i++) {
		const struct page_piece *p = &map->pieces.at[i];
		uint64_t pages;

		for (uint64_t skip = 0; skip < p->pages; skip += pages) {
			taddr page = p->start + skip * PAGE_BYTES;
			const struct vma *v = load_vma_at(t, page, &at);

			if (!v || v->status & (VMA_ANON_SHARED | VMA_FILE_SHARED | VMA_VVAR))
				return err_set(err, EBADMSG, "the page at %#llx is in no private mapping", (unsigned long long)page);
			pages = p->pages - skip;
			if (pages > (v->end - page) / PAGE_BYTES)
				pages = (v->end - page) / PAGE_BYTES;
			push(v->status & VMA_VDSO ? &out->vdso : &out->map, page, pages, p->file, p->offset + skip * PAGE_BYTES);
		}
	}
	return 0;
}

int load_pages(struct store *store, const struct task *t, struct loaded_pages *ret, struct err *err)
{
	struct page_map map = { 0 };
	struct loaded_pages out = { 0 };
	int r = page_map_load(store, IMAGE_PAGEMAP, (uint64_t)t->pid, &map, err);

	if (r >= 0)
		r = cut(t, &map, &out, err);
	vec_free(&map.pieces);
	out.map.files.at = map.files.at;
	out.map.files.len = map.files.len;
	out.map.files.cap = map.files.cap;
	if (r < 0)
		loaded_pages_free(&out);
	else
		*ret = out;
	return r < 0 ? r : 0;
}

int load_check_vdso(const struct task *t, const struct loaded_pages *pages, load_read *read, void *arg, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < pages->vdso.pieces.len; i++) {
		const struct page_piece *p = &pages->vdso.pieces.at[i];

		for (uint64_t k = 0; r == 0 && k < p->pages; k++) {
			struct page_piece one = { .start = p->start + k * PAGE_BYTES, .pages = 1, .file = p->file,
						  .offset = p->offset + k * PAGE_BYTES };
			uint8_t page[PAGE_BYTES];

			r = read(arg, &pages->map, &one, page, err);
			if (r == 0)
				r = vdso_check_bytes(&t->mm, one.start, page, sizeof(page), err);
		}
	}
	return r;
}

void loaded_pages_free(struct loaded_pages *pages)
{
	vec_free(&pages->vdso.pieces);
	page_map_free(&pages->map);
}
