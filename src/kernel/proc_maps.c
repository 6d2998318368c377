/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "base/own.h"
#include "kernel/proc_map.h"
#include "kernel/scan.h"

#define PAGE_MASK_BITS 4095u

static bool scan_prot(struct scan *s, struct proc_map *map)
{
	const char *p = s->at;

	if (s->end - p < 4 || (p[0] != 'r' && p[0] != '-') || (p[1] != 'w' && p[1] != '-') ||
	    (p[2] != 'x' && p[2] != '-') || (p[3] != 'p' && p[3] != 's'))
		return false;
	map->prot = (p[0] == 'r' ? PROT_READ : 0) | (p[1] == 'w' ? PROT_WRITE : 0) | (p[2] == 'x' ? PROT_EXEC : 0);
	map->shared = p[3] == 's';
	s->at += 4;
	return true;
}

/* START-END, as in the first line of a mapping in maps and smaps. */
static bool scan_range(struct scan *s, uint64_t *ret_start, uint64_t *ret_end)
{
	return scan_u64(s, 16, ret_start) && scan_char(s, '-') && scan_u64(s, 16, ret_end) && scan_char(s, ' ') &&
	       *ret_start < *ret_end && ((*ret_start | *ret_end) & PAGE_MASK_BITS) == 0;
}

/* "55d5a9b9f000-55d5a9ba1000 r--p 00000000 fe:00 247498      /usr/bin/head"; the name ends where the line does. */
static bool scan_map(struct scan s, struct proc_map *map)
{
	uint64_t dev_major, dev_minor, ino;

	if (!scan_range(&s, &map->start, &map->end) || !scan_prot(&s, map) ||
	    !scan_char(&s, ' ') || !scan_u64(&s, 16, &map->pgoff_bytes) ||
	    !scan_char(&s, ' ') || !scan_u64(&s, 16, &dev_major) || dev_major > UINT_MAX ||
	    !scan_char(&s, ':') || !scan_u64(&s, 16, &dev_minor) || dev_minor > UINT_MAX ||
	    !scan_char(&s, ' ') || !scan_u64(&s, 10, &ino))
		return false;
	if (s.at < s.end && *s.at != ' ')
		return false;
	map->dev = makedev((unsigned int)dev_major, (unsigned int)dev_minor);
	map->ino = (ino_t)ino;
	while (s.at < s.end && *s.at == ' ')
		s.at++;
	map->name = s.at;
	return true;
}

int proc_maps_parse(struct proc_maps *maps, struct err *err)
{
	struct scan s = scan_of(maps->text.at, maps->text.len), line;
	uint64_t last_end = 0;
	struct proc_map map;

	maps->len = 0;
	while (scan_line(&s, &line)) {
		map = (struct proc_map){ 0 };
		if (!scan_map(line, &map) || map.start < last_end || memchr(line.at, '\0', (size_t)(line.end - line.at)))
			return err_set(err, EBADMSG, "maps line %zu is not understood", maps->len + 1);
		last_end = map.end;
		*(char *)line.end = '\0';       /* the text is ours: a line end, or the NUL after the last byte */
		vec_push(maps, map);
	}
	return 0;
}

/* Where maps wrote "\012", either the path has a line end or just that: map_files shows it raw. */
static void ask_raw_name(pid_t pid, struct proc_map *map)
{
	char link[PATH_MAX], name[64];
	struct err gone;
	int n;

	if (map->name[0] != '/' || !strstr(map->name, "\\012"))
		return;
	snprintf(name, sizeof(name), "map_files/%lx-%lx", map->start, map->end);
	n = proc_link(pid, name, link, sizeof(link), &gone);
	if (n > 0 && (size_t)n <= strlen(map->name))
		memcpy((char *)map->name, link, (size_t)n + 1);
}

int proc_maps(pid_t pid, struct proc_maps *maps, struct err *err)
{
	int r = proc_read_all(pid, "maps", &maps->text, err);

	maps->len = 0;
	if (r == 0)
		r = proc_maps_parse(maps, err);
	if (r < 0) {
		maps->len = 0;
		return r;
	}
	for (size_t i = 0; i < maps->len; i++)
		ask_raw_name(pid, &maps->at[i]);
	return 0;
}

void proc_maps_free(struct proc_maps *maps)
{
	vec_free(maps);
	vec_free(&maps->text);
}

struct proc_map *proc_maps_find(const struct proc_maps *maps, uint64_t taddr)
{
	size_t low = 0, high = maps->len;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (maps->at[mid].end <= taddr)
			low = mid + 1;
		else
			high = mid;
	}
	return low < maps->len && maps->at[low].start <= taddr ? &maps->at[low] : NULL;
}

/*
 * Kernels tell flags from the lowest bit on. Older ones (6.1) have no code for "locked on fault": it is the "??" between
 * "lo" and "ac", where no other flag without a code is.
 */
static bool is_old_lf(const struct scan *s, uint64_t flags)
{
	return (flags & VMF_LO) && !(flags & ~(VMF_AC - 1 + VMF_UM + VMF_UW)) && memcmp(s->at, "??", 2) == 0;
}

/* "VmFlags: rd ex mr mw me " without its key. */
static bool scan_vm_flags(struct scan *s, uint64_t *ret_flags)
{
	static const char codes[VMF_BIT_OTHER][3] = {
		"rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "gd", "pf", "lo", "io", "sr", "rr", "dc", "de", "ac", "nr",
		"ht", "sf", "ar", "wf", "dd", "sd", "mm", "hg", "nh", "mg", "um", "uw", "ui", "ss", "sl", "lf", "dp", "gu",
	};
	uint64_t flags = 0;

	for (scan_blanks(s); s->at < s->end; scan_blanks(s)) {
		unsigned int bit = 0;

		if (s->end - s->at < 2 || (s->end - s->at > 2 && s->at[2] != ' '))
			return false;
		while (bit < VMF_BIT_OTHER && memcmp(codes[bit], s->at, 2) != 0)
			bit++;
		if (bit == VMF_BIT_OTHER && is_old_lf(s, flags))
			bit = VMF_BIT_LF;
		flags |= 1ull << bit;
		s->at += 2;
	}
	*ret_flags = flags;
	return true;
}

/* What the lines of one mapping in smaps say, before the VmFlags that end them. */
struct smaps_entry { uint64_t start, end, anon_kib, shared_kib, key; };

static bool scan_kib(struct scan *line, uint64_t *ret_kib)
{
	scan_blanks(line);
	return scan_u64(line, 10, ret_kib) && *ret_kib < UINT64_MAX >> 12;
}

/* "Anonymous:", "Shared_Clean:", "Shared_Dirty:", "ProtectionKey:"; false: another line. */
static bool scan_amount(struct scan *line, struct smaps_entry *e)
{
	uint64_t kib;

	if (scan_text(line, "ProtectionKey:")) {
		scan_blanks(line);
		return scan_u64(line, 10, &e->key);
	}
	if (scan_text(line, "Anonymous:"))
		return scan_kib(line, &e->anon_kib);
	if (!scan_text(line, "Shared_Clean:") && !scan_text(line, "Shared_Dirty:"))
		return false;
	/* what is not understood counts as shared */
	e->shared_kib += scan_kib(line, &kib) ? kib : 1;
	return true;
}

/* Each mapping's first line begins with a lower-case hex number, all the others with a capital. */
int proc_smaps_parse(const char *text, size_t len, struct proc_maps *maps, struct err *err)
{
	struct scan s = scan_of(text, len), line;
	struct smaps_entry e = { 0 };
	size_t at = 0, matched = 0;
	uint64_t flags;

	for (size_t i = 0; i < maps->len; i++)
		maps->at[i].vm_flags = 0;
	while (scan_line(&s, &line)) {
		if (line.at < line.end && *line.at >= 'A' && *line.at <= 'Z') {
			if (scan_amount(&line, &e) || !scan_text(&line, "VmFlags:"))
				continue;
			if (!scan_vm_flags(&line, &flags))
				return err_set(err, EBADMSG, "VmFlags in smaps is not understood");
			while (at < maps->len && maps->at[at].start < e.start)
				at++;
			if (at < maps->len && maps->at[at].start == e.start && maps->at[at].end == e.end) {
				maps->at[at].anon_bytes = e.anon_kib * 1024;
				maps->at[at].shared_bytes = e.shared_kib * 1024;
				maps->at[at++].vm_flags = flags | (e.key ? VMF_KEY : 0);
				matched++;
			}
		} else {
			e = (struct smaps_entry){ 0 };
			if (!scan_range(&line, &e.start, &e.end))
				return err_set(err, EBADMSG, "smaps is not understood");
		}
	}
	return (int)(maps->len - matched);
}

int proc_smaps_flags(pid_t pid, struct proc_maps *maps, struct err *err)
{
	struct proc_text text = { 0 };
	int r = proc_read_all(pid, "smaps", &text, err);

	if (r == 0)
		r = proc_smaps_parse(text.at, text.len, maps, err);
	vec_free(&text);
	return r;
}
