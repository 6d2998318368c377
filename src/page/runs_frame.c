/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/own.h"
#include "page/runs_frame.h"
#include "wire/codec.h"

#define USER_END 0x800000000000ull

static bool is_zero(const struct runs_frame_head *h, uint64_t page)
{
	return h->zeros[page / 64] >> page % 64 & 1;
}

/* Rising, inside user space, and as many pages as there are said to be. */
static int take_runs(const struct frame *f, struct runs_read *r, struct err *err)
{
	const uint8_t *at = f->bytes + sizeof(r->head);
	bool drop = f->type == FRAME_DROP;
	uint64_t pages = 0, from = 0;

	for (size_t i = 0; i < r->head.runs; i++, at += sizeof(struct runs_frame_run)) {
		struct runs_frame_run run;

		memcpy(&run, at, sizeof(run));
		if (run.start % PAGE_BYTES || run.start < from || run.start >= USER_END || run.pages == 0 ||
		    run.pages > (USER_END - run.start) / PAGE_BYTES || (!drop && run.pages > RUNS_FRAME_PAGES - pages))
			return err_set(err, EBADMSG, "the other side sent pages that are out of place");
		r->parcels[i] = (struct page_parcel){ .run = { .start = run.start, .pages = run.pages, .where = PAGE_HERE },
						      .to = run.start };
		from = run.start + run.pages * PAGE_BYTES;
		pages += drop ? 0 : run.pages;
	}
	return pages == r->head.pages ? 0 : err_set(err, EBADMSG, "the other side sent other pages than it said");
}

static int unpack(const struct frame *f, struct runs_read *r, struct err *err)
{
	size_t skip = sizeof(r->head) + r->head.runs * sizeof(struct runs_frame_run), full = 0;
	own_free uint8_t *packed = NULL;
	const uint8_t *in = f->bytes + skip;
	uint64_t page = 0;
	int done = 0;

	for (uint64_t i = 0; i < r->head.pages; i++)
		full += is_zero(&r->head, i) ? 0 : PAGE_BYTES;
	r->buf = mem_new((size_t)r->head.pages * PAGE_BYTES);
	if (r->head.codec != CODEC_RAW) {
		packed = mem_new(full ? full : 1);
		done = codec_unpack(r->head.codec, in, f->len_bytes - skip, packed, full, err);
		in = packed;
	} else if (f->len_bytes - skip != full) {
		done = err_set(err, EBADMSG, "the other side sent other pages than it said");
	}
	for (size_t i = 0; done == 0 && i < r->head.runs; i++) {
		r->parcels[i].bytes = r->buf + page * PAGE_BYTES;
		for (uint64_t k = 0; k < r->parcels[i].run.pages; k++, page++) {
			if (is_zero(&r->head, page))
				continue;
			memcpy(r->buf + page * PAGE_BYTES, in, PAGE_BYTES);
			in += PAGE_BYTES;
		}
	}
	return done;
}

int runs_frame_read(const struct frame *f, struct runs_read *ret, struct err *err)
{
	int r;

	ret->buf = NULL;
	if (f->len_bytes < sizeof(ret->head))
		return err_set(err, EBADMSG, "the other side sent pages without a head");
	memcpy(&ret->head, f->bytes, sizeof(ret->head));
	if (ret->head.owner > RUNS_SHMEM || ret->head.codec >= CODEC_COUNT || ret->head.runs > RUNS_FRAME_RUNS ||
	    ret->head.pages > RUNS_FRAME_PAGES || ret->head.reserved ||
	    f->len_bytes - sizeof(ret->head) < ret->head.runs * sizeof(struct runs_frame_run))
		return err_set(err, EBADMSG, "the other side sent broken pages");
	r = take_runs(f, ret, err);
	if (r == 0 && f->type == FRAME_RUNS)
		r = unpack(f, ret, err);
	if (r < 0) {
		free(ret->buf);
		ret->buf = NULL;
	}
	return r;
}
