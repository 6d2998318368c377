/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <unistd.h>

#include "engine/move.h"

#define OBJECT_END 0x800000000000ll     /* pagemap images have addresses */

int move_pages(struct moving *m, struct page_source *src, const struct pagemap_wish *wish, struct page_count *count,
	       struct err *err)
{
	struct page_sink *sink;
	int r = m->to->ops->open(m->to, wish, &sink, err), closed;

	if (r < 0)
		return r;
	count->meter = &m->meter;
	r = page_pump(src, sink, m->threads, count, err);
	closed = m->to->ops->close(m->to, r < 0 ? &(struct err){ 0 } : err);
	return r < 0 ? r : closed;
}

int plan_object(int fd, uint64_t size, bool compare, struct page_runs *plan, struct err *err)
{
	const off_t whole = (off_t)((size + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES);
	off_t at = 0;

	while ((uint64_t)at < size && (at = lseek(fd, at, SEEK_DATA)) >= 0 && (uint64_t)at < size) {
		off_t end = lseek(fd, at, SEEK_HOLE);

		if (end < 0)
			return err_sys(err, "look for holes");
		end = end < whole ? (end + (off_t)PAGE_BYTES - 1) / (off_t)PAGE_BYTES * (off_t)PAGE_BYTES : whole;
		if ((uint64_t)end > OBJECT_END)
			return err_set(err, EOPNOTSUPP, "it has data at offset %#llx: too far for the images", (long long)at);
		if (end > at)           /* else somebody has taken it away since */
			vec_push(plan, ((struct page_run){
				.start = (taddr)at, .pages = (uint64_t)(end - at) / PAGE_BYTES, .where = PAGE_HERE,
				.may_skip_zero = true, .compare = compare, .from = (uint64_t)at }));
		at = end;
	}
	return at < 0 && errno != ENXIO ? err_sys(err, "look for data") : 0;
}

int move_object(struct moving *m, int fd, uint64_t id, uint64_t size, struct page_count *count, struct err *err)
{
	struct page_runs plan = { 0 };
	struct page_map known = { 0 };
	struct source_file src;
	int r = m->base ? m->to->ops->known(m->to, m->base, IMAGE_PAGEMAP_SHMEM, id, &known, err) : 0;
	bool has = r > 0;

	if (r >= 0)
		r = plan_object(fd, size, has, &plan, err);
	if (r == 0) {
		source_file_init(&src, fd, &plan);
		r = move_pages(m, &src.base, &(struct pagemap_wish){
			.kind = IMAGE_PAGEMAP_SHMEM, .id = id, .reserved = -1, .known = has ? &known : NULL }, count, err);
	}
	vec_free(&plan);
	page_map_free(&known);
	return r;
}
