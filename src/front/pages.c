/* SPDX-License-Identifier: Apache-2.0 */
#include "front/pages.h"
#include "image/messages.h"

static void count_run(const PagemapEntry *run, struct pages *pages)
{
	uint64_t n = run->has_nr_pages ? run->nr_pages : run->compat_nr_pages;

	if ((run->flags & 1) || run->in_parent)
		pages->parent += n;
	else if ((run->flags & 4) || !run->has_flags)
		pages->here += n;
	else if (run->flags & 2)
		pages->lazy += n;
}

int pages_count(const struct store *store, enum image_kind kind, uint64_t id, uint32_t *ret_pages_id, struct pages *pages,
		struct err *err)
{
	own_reader *reader = NULL;
	own_message PagemapHead *head = NULL;
	int r;

	r = image_open(store, kind, id, &reader, err);
	if (r > 0)
		r = IMAGE_GET(reader, pagemap_head, &head, err);
	if (r <= 0)
		return r;
	*ret_pages_id = head->pages_id;
	while (r > 0) {
		own_message PagemapEntry *run = NULL;

		r = IMAGE_GET(reader, pagemap_entry, &run, err);
		if (r > 0)
			count_run(run, pages);
	}
	return r < 0 ? r : 1;
}

int pages_count_all(const struct store *store, struct pages *pages, struct err *err)
{
	struct store_names names = { 0 };
	uint32_t pages_id;
	int r = store_list(store, &names, err);

	for (size_t i = 0; i < names.len && r >= 0; i++)
		if (image_is_pagemap(names.at[i].kind))
			r = pages_count(store, names.at[i].kind, names.at[i].id, &pages_id, pages, err);
	vec_free(&names);
	return r < 0 ? r : 0;
}
