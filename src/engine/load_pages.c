/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <unistd.h>

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

static int check_vdso_page(const struct task *t, const struct page_map *map, const struct page_piece *p, uint64_t skip,
			   struct err *err)
{
	uint8_t page[PAGE_BYTES];
	off_t from = (off_t)(p->offset + skip * PAGE_BYTES);

	if (pread(map->files.at[p->file].fd, page, sizeof(page), from) != (ssize_t)sizeof(page))
		return err_sys(err, "read a page of the vdso");
	return vdso_check_bytes(&t->mm, p->start + skip * PAGE_BYTES, page, sizeof(page), err);
}

/* Cuts pieces at the borders of mappings; every page must be in a private one.  The vdso's are compared, and go. */
static int cut(const struct task *t, const struct page_map *map, struct page_map *out, struct err *err)
{
	size_t at = 0;
	int r = 0;

	for (size_t i = 0; i < map->pieces.len; i++) {
		const struct page_piece *p = &map->pieces.at[i];
		uint64_t pages;

		for (uint64_t skip = 0; r == 0 && skip < p->pages; skip += pages) {
			taddr page = p->start + skip * PAGE_BYTES;
			const struct vma *v = load_vma_at(t, page, &at);

			if (!v || v->status & (VMA_ANON_SHARED | VMA_FILE_SHARED | VMA_VVAR))
				return err_set(err, EBADMSG, "the page at %#llx is in no private mapping", (unsigned long long)page);
			pages = p->pages - skip;
			if (pages > (v->end - page) / PAGE_BYTES)
				pages = (v->end - page) / PAGE_BYTES;
			if (v->status & VMA_VDSO) {
				pages = 1;
				r = check_vdso_page(t, map, p, skip, err);
				continue;
			}
			vec_push(&out->pieces, ((struct page_piece){ .start = page, .pages = pages, .file = p->file,
								     .offset = p->offset + skip * PAGE_BYTES }));
		}
		if (r < 0)
			return r;
	}
	return 0;
}

int load_pages(struct store *store, const struct task *t, struct page_map *ret_map, struct err *err)
{
	struct page_map map = { 0 }, out = { 0 };
	int r = page_map_load(store, IMAGE_PAGEMAP, (uint64_t)t->pid, &map, err);

	if (r >= 0)
		r = cut(t, &map, &out, err);
	if (r < 0) {
		vec_free(&out.pieces);
		page_map_free(&map);
		return r;
	}
	vec_free(&map.pieces);
	*ret_map = map;
	ret_map->pieces.at = out.pieces.at;
	ret_map->pieces.len = out.pieces.len;
	ret_map->pieces.cap = out.pieces.cap;
	return 0;
}
