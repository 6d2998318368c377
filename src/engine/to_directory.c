/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "base/mem.h"
#include "engine/destination.h"

struct to_directory {
	struct destination base;
	struct store *store;
	struct sink_image sink;
};

static int known(struct destination *d, struct store *base, enum image_kind kind, uint64_t id, struct page_map *ret_map,
		 struct err *err)
{
	(void)d;
	return page_map_load(base, kind, id, ret_map, err);
}

static int open_pagemap(struct destination *d, const struct pagemap_wish *wish, struct page_sink **ret_sink, struct err *err)
{
	struct to_directory *to = (struct to_directory *)d;
	int r = sink_image_open(&to->sink, to->store, wish->kind, wish->id, d->pages_id + 1, wish->reserved, err);

	if (r < 0)
		return r;
	d->pages_id++;
	to->sink.placed = wish->placed;
	to->sink.parent = wish->known;
	*ret_sink = &to->sink.base;
	return 0;
}

static int close_pagemap(struct destination *d, struct err *err)
{
	return sink_image_close(&((struct to_directory *)d)->sink, err);
}

static int end(struct destination *d, struct err *err)
{
	(void)d;
	(void)err;
	return 0;
}

static void free_it(struct destination *d)
{
	free(d);
}

struct destination *to_directory(struct store *store)
{
	static const struct destination_ops ops = { known, open_pagemap, close_pagemap, end, free_it };
	struct to_directory *to = mem_new(sizeof(*to));

	to->base.ops = &ops;
	to->base.in_files = true;
	to->store = store;
	return &to->base;
}

void destination_free(struct destination *d)
{
	if (d)
		d->ops->free(d);
}
