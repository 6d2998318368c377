/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/own.h"
#include "front/chain.h"
#include "front/describe.h"
#include "front/pages.h"
#include "front/words.h"
#include "image/link.h"
#include "page/puncher.h"

struct shown_link {
	struct store *store;
	char path[256];                 /* as the link says it */
	size_t path_bytes;
	struct pages pages;
	uint64_t disk_bytes, read;      /* read: pages */
	bool is_dump;                   /* no COW_DIR */
};

struct shown_file { dev_t dev; ino_t ino; size_t link; uint64_t disk_bytes; };

struct shown_chain {
	VEC(struct shown_link) links;           /* newest first */
	VEC(struct shown_file) files;           /* once each */
	struct puncher reads;                   /* of the newest */
	bool reads_known, missing;
	struct err problem;                     /* code 0: none */
};

/* ---- reading ---- */

static bool has_image(const struct store *store, enum image_kind kind)
{
	struct stat st;

	return fstatat(store_dirfd(store), image_types[kind].file, &st, 0) == 0;
}

static int add_files(struct shown_chain *c, size_t link, struct err *err)
{
	struct store_names names = { 0 };
	int r = store_list(c->links.at[link].store, &names, err);

	for (size_t i = 0; r == 0 && i < names.len; i++) {
		char name[IMAGE_NAME_MAX];
		struct stat st;
		bool known = false;

		image_file_name(IMAGE_PAGES, names.at[i].id, name);
		if (names.at[i].kind != IMAGE_PAGES || fstatat(store_dirfd(c->links.at[link].store), name, &st, 0) < 0)
			continue;
		for (size_t k = 0; k < c->files.len && !known; k++)
			known = c->files.at[k].dev == st.st_dev && c->files.at[k].ino == st.st_ino;
		if (known)
			continue;
		vec_push(&c->files, ((struct shown_file){ st.st_dev, st.st_ino, link, (uint64_t)st.st_blocks * 512 }));
		c->links.at[link].disk_bytes += (uint64_t)st.st_blocks * 512;
	}
	vec_free(&names);
	return r;
}

static int add_link(struct shown_chain *c, struct store *store, const struct store *from, struct err *err)
{
	struct shown_link *l = vec_add(&c->links);
	ssize_t n = from ? readlinkat(store_dirfd(from), LINK_PARENT, l->path, sizeof(l->path)) : 0;
	int r;

	l->store = store;
	l->path_bytes = n > 0 ? (size_t)n : 0;
	if (!store)
		return 0;
	l->is_dump = !from || has_image(store, IMAGE_INVENTORY);
	r = pages_count_all(store, &l->pages, err);
	return r < 0 ? r : add_files(c, c->links.len - 1, err);
}

static bool is_known(const struct shown_chain *c, const struct store *store)
{
	struct stat a, b;

	if (fstat(store_dirfd(store), &a) < 0)
		return true;
	for (size_t i = 0; i < c->links.len; i++)
		if (fstat(store_dirfd(c->links.at[i].store), &b) < 0 || (a.st_dev == b.st_dev && a.st_ino == b.st_ino))
			return true;
	return false;
}

/* Up to the end, to what is missing, or to where it goes in circles. */
static int load_links(struct shown_chain *c, struct store *store, struct err *err)
{
	int r = add_link(c, store, NULL, err);

	while (r == 0) {
		struct store *from = c->links.at[c->links.len - 1].store, *up = NULL;

		r = store_parent(from, &up, err);
		if (r == -ENOENT) {
			c->missing = true;
			return add_link(c, NULL, from, err);
		}
		if (r <= 0)
			return r;
		if (is_known(c, up))
			return 0;
		r = add_link(c, up, from, err);
	}
	return r;
}

static int load_reads(struct shown_chain *c, struct err *err)
{
	struct store *newest = c->links.at[0].store;
	struct store_names names = { 0 };
	int r = store_list(newest, &names, err);

	for (size_t i = 0; r >= 0 && i < names.len; i++) {
		struct page_map map = { 0 };

		if (!image_is_pagemap(names.at[i].kind))
			continue;
		r = page_map_load(newest, names.at[i].kind, names.at[i].id, &map, err);
		if (r > 0)
			puncher_need(&c->reads, &map);
		page_map_free(&map);
	}
	vec_free(&names);
	puncher_sort(&c->reads);
	return r < 0 ? r : 0;
}

static void count_reads(struct shown_chain *c)
{
	for (size_t i = 0; i < c->reads.needed.len; i++) {
		const struct puncher_range *n = &c->reads.needed.at[i];

		for (size_t k = 0; k < c->files.len; k++)
			if (c->files.at[k].dev == n->dev && c->files.at[k].ino == n->ino)
				c->links.at[c->files.at[k].link].read += (n->end - n->start) / PAGE_BYTES;
	}
	c->reads_known = true;
}

static void find_problem(struct shown_chain *c)
{
	struct err err;

	if (link_check_chain(c->links.at[0].store, &err) < 0 || (c->links.len > 1 && load_reads(c, &err) < 0))
		c->problem = err;
	else
		count_reads(c);
}

/* ---- printing ---- */

static void print_id(FILE *out, const struct link_id *id)
{
	for (size_t i = 0; i < 4; i++)
		fprintf(out, "%02x", id->bytes[i]);
}

/* "dump 03a1b2c3"; what can't be read is told as a problem. */
static void print_kind(const struct shown_link *l, FILE *out)
{
	struct image_link link = { 0 };
	int r = link_read(l->store, &link, &(struct err){ 0 });
	bool memory_only = r > 0 ? link.memory_only : !has_image(l->store, IMAGE_PSTREE);

	fputs(!l->is_dump ? "shared pages" : memory_only ? "pre-dump" : "dump", out);
	if (r > 0) {
		fputc(' ', out);
		print_id(out, &link.id);
	}
}

static void print_link(const struct shown_chain *c, const struct shown_link *l, FILE *out)
{
	struct link_id by;
	char text[16];

	fputs("  ", out);
	if (l == c->links.at)
		fputs("this directory", out);
	else
		describe_text(out, l->path_bytes ? l->path : LINK_PARENT, l->path_bytes ? l->path_bytes : strlen(LINK_PARENT));
	if (!l->store) {
		fputs(" is MISSING\n", out);
		return;
	}
	fputs(": ", out);
	print_kind(l, out);
	fprintf(out, "; %" PRIu64 " pages here, %s on disk", l->pages.here, size_text(l->disk_bytes, text));
	if (c->reads_known)
		fprintf(out, ", %" PRIu64 " of them read", l->read);
	if (link_replaced_by(l->store, &by, &(struct err){ 0 }) > 0) {
		fputs("; gave up pages for ", out);
		print_id(out, &by);
	}
	fputc('\n', out);
}

static void print_links(const struct shown_chain *c, FILE *out)
{
	uint64_t disk_bytes = 0;
	unsigned int links = 0;
	char count[64], text[16];

	for (size_t i = 0; i < c->links.len; i++) {
		disk_bytes += c->links.at[i].disk_bytes;
		links += c->links.at[i].is_dump;
	}
	fprintf(out, "Chain: %s, %s on disk\n", things_text(links, "link", count), size_text(disk_bytes, text));
	for (size_t i = 0; i < c->links.len; i++)
		print_link(c, &c->links.at[i], out);
}

static void print_all(const struct shown_chain *c, FILE *out)
{
	struct image_link link;

	if (c->links.len > 1) {
		print_links(c, out);
	} else if (link_read(c->links.at[0].store, &link, &(struct err){ 0 }) > 0) {
		fputs("Link: ", out);
		print_kind(&c->links.at[0], out);
		fputc('\n', out);
	}
	if (c->problem.code && !c->missing)
		fprintf(out, "PROBLEM: %s\n", c->problem.text);
}

int chain_print(struct store *store, FILE *out, struct err *err)
{
	struct shown_chain c = { 0 };
	int r = load_links(&c, store, err);

	if (r == 0) {
		find_problem(&c);
		print_all(&c, out);
	}
	vec_free(&c.links);
	vec_free(&c.files);
	puncher_free(&c.reads);
	return r;
}
