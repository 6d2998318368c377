/* SPDX-License-Identifier: Apache-2.0 */
/* preflight_look.c - a list of needs from a snapshot, and what this machine has of each. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/mem.h"
#include "base/own.h"
#include "engine/preflight.h"
#include "engine/vdso.h"
#include "kernel/arch/x86_64/cpu.h"
#include "kernel/arch/x86_64/xstate.h"
#include "kernel/probe.h"
#include "kernel/proc.h"
#include "page/page.h"
#include "resource/resource.h"

#define NOTES_MAX    65536u
#define SEGMENTS_MAX 128u

/* ---- files ---- */

/* In the bytes of a PT_NOTE segment. */
static void find_build_id(const uint8_t *notes, size_t len, uint8_t *ret_id)
{
	Elf64_Nhdr n;

	for (size_t at = 0; at + sizeof(n) <= len;) {
		size_t name, desc, next;

		memcpy(&n, notes + at, sizeof(n));
		name = at + sizeof(n);
		desc = name + ((n.n_namesz + 3ul) & ~3ul);
		next = desc + ((n.n_descsz + 3ul) & ~3ul);
		if (desc > len || next > len)
			return;
		if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == sizeof(ELF_NOTE_GNU) && memcmp(notes + name, ELF_NOTE_GNU, n.n_namesz) == 0)
			memcpy(ret_id, notes + desc, n.n_descsz < BUILD_ID_BYTES ? n.n_descsz : BUILD_ID_BYTES);
		at = next;
	}
}

/* ret_id stays as it is where the file has none. */
static void read_build_id(int fd, uint8_t *ret_id)
{
	Elf64_Ehdr e;
	Elf64_Phdr p;

	if (pread(fd, &e, sizeof(e), 0) != sizeof(e) || memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 || e.e_ident[EI_CLASS] != ELFCLASS64)
		return;
	for (unsigned int i = 0; i < e.e_phnum && i < SEGMENTS_MAX; i++) {
		own_free uint8_t *notes = NULL;

		if (pread(fd, &p, sizeof(p), (off_t)(e.e_phoff + i * sizeof(p))) != sizeof(p))
			return;
		if (p.p_type != PT_NOTE || p.p_filesz > NOTES_MAX)
			continue;
		notes = mem_new(p.p_filesz + 1);
		if (pread(fd, notes, p.p_filesz, (off_t)p.p_offset) == (ssize_t)p.p_filesz)
			find_build_id(notes, p.p_filesz, ret_id);
	}
}

/* Only of what is mapped are the bytes read: an open may do things (tapes, FIFOs). */
static void look_file(struct need *n)
{
	struct stat st;
	own_fd fd = -1;

	n->a = n->b = 0;
	memset(n->id, 0, sizeof(n->id));
	if (stat(n->text, &st) < 0)
		return;
	n->a = (uint64_t)st.st_size;
	n->b = st.st_mode & S_IFMT;
	if (!(n->flags & NEED_MAPPED) || !S_ISREG(st.st_mode))
		return;
	fd = open(n->text, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd >= 0)
		read_build_id(fd, n->id);
}

/* ---- the machine ---- */

/* A number is taken by a thread as well, and by a group or session whose leader is gone. */
static void look_pid(struct need *n)
{
	pid_t pid = (pid_t)n->a;

	if (n->a >= proc_number("/proc/sys/kernel/pid_max", ""))
		n->b = PID_TOO_LARGE;
	else
		n->b = kill(pid, 0) == 0 || errno == EPERM || (pid > 1 && (kill(-pid, 0) == 0 || errno == EPERM)) ? PID_TAKEN : PID_FREE;
}

static void look_feature(struct need *n)
{
	const struct probe *p = n->text ? probe_find(n->text) : NULL;

	n->a = p && p->quick && p->door(&(struct err){ 0 }) == 0;
}

static int look_vdso(struct need *n, struct err *err)
{
	struct vdso own;
	int r = vdso_own(&own, err);

	for (unsigned int i = 0; r == 0 && i < own.parts; i++)
		if (own.part[i].code) {
			n->a = XXH3_64bits((const void *)(uintptr_t)own.part[i].start, own.part[i].len_bytes);
			n->b = own.part[i].len_bytes;
		}
	return r;
}

/* Whoever moves has it at the source; here somebody else may. */
static void look_address(struct need *n)
{
	int family = (int)(n->a & 0xff), type = (int)(n->a >> 8 & 0xff), on = 1;
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons((uint16_t)(n->a >> 16)) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = v4.sin_port };
	const struct sockaddr *name = family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
	own_fd fd = -1;

	n->b = EAFNOSUPPORT;
	if ((family != AF_INET && family != AF_INET6) || (type != SOCK_STREAM && type != SOCK_DGRAM))
		return;
	memcpy(&v4.sin_addr, n->id, sizeof(v4.sin_addr));
	memcpy(&v6.sin6_addr, n->id, sizeof(v6.sin6_addr));
	fd = socket(family, type | SOCK_CLOEXEC, 0);
	/* both families of one port are two sockets, and connections of before are in nobody's way */
	if (fd >= 0 && family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (fd >= 0 && type == SOCK_STREAM)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	n->b = fd >= 0 && bind(fd, name, family == AF_INET ? sizeof(v4) : sizeof(v6)) == 0 ? 0 : (uint64_t)errno;
}

static int look(struct need *n, struct err *err)
{
	switch (n->kind) {
	case NEED_PID:
		look_pid(n);
		return 0;
	case NEED_FILE:
		look_file(n);
		return 0;
	case NEED_CPU:
		n->a = cpu_sets();
		n->b = xstate_features();
		return 0;
	case NEED_VDSO:
		return look_vdso(n, err);
	case NEED_FEATURE:
		look_feature(n);
		return 0;
	case NEED_MEMORY:
		n->a = proc_number("/proc/meminfo", "MemAvailable:") << 10;
		return 0;
	default:
		look_address(n);
		return 0;
	}
}

int preflight_look(struct need_list *list, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < list->needs.len; i++)
		r = look(&list->needs.at[i], err);
	return r;
}

/* ---- the list ---- */

static struct need *known_file(struct need_list *list, const char *path)
{
	for (size_t i = 0; i < list->needs.len; i++)
		if (list->needs.at[i].kind == NEED_FILE && strcmp(list->needs.at[i].text, path) == 0)
			return &list->needs.at[i];
	return NULL;
}

static void list_file(struct need_list *list, const struct snapshot *s, const struct file *f)
{
	const char *path = file_path(f);
	struct need *n = path ? known_file(list, path) : NULL;

	if (!path || strlen(path) > NEED_TEXT_MAX || snapshot_ghost_of(s, f->id) || (f->type->is_late && f->type->is_late(f, s)))
		return;
	if (!n) {
		n = vec_add(&list->needs);
		*n = (struct need){ .kind = NEED_FILE, .text = mem_str(path) };
	}
	n->flags |= f->mapped ? NEED_MAPPED : 0;
}

static void look_files(struct need_list *list)
{
	for (size_t i = 0; i < list->needs.len; i++)
		if (list->needs.at[i].kind == NEED_FILE)
			look_file(&list->needs.at[i]);
}

static void list_address(struct need_list *list, const struct file *f)
{
	struct file_address a;
	struct need n = { .kind = NEED_ADDRESS };

	if (!file_address(f, &a))
		return;
	n.a = (uint64_t)a.family | (uint64_t)a.type << 8 | (uint64_t)a.port << 16;
	memcpy(n.id, a.bytes, sizeof(a.bytes));
	n.text = mem_fmt("%s %s", a.type == SOCK_STREAM ? "tcp" : "udp", a.text);
	vec_push(&list->needs, n);
}

static void list_task(struct need_list *list, const struct task *t, uint64_t *state)
{
	for (size_t i = 0; i < t->threads.len; i++) {
		const struct thread *th = &t->threads.at[i];
		uint64_t used = 0;

		vec_push(&list->needs, ((struct need){ .kind = NEED_PID, .a = (uint64_t)th->tid }));
		if (th->xsave && th->xsave_len >= XSTATE_LEGACY_BYTES)
			memcpy(&used, th->xsave + XSTATE_HEADER, sizeof(used));
		*state |= used;
	}
	*state |= t->xcomp;
}

int preflight_list(const struct snapshot *s, uint64_t pages, struct need_list *ret, struct err *err)
{
	struct need cpu = { .kind = NEED_CPU, .a = cpu_sets() }, vdso = { .kind = NEED_VDSO };
	int r = look_vdso(&vdso, err);

	for (size_t i = 0; i < s->tasks.len; i++)
		list_task(ret, &s->tasks.at[i], &cpu.b);
	vec_push(&ret->needs, cpu);
	vec_push(&ret->needs, vdso);
	for (size_t i = 0; i < probe_count; i++)
		if (probe_table[i].needed && probe_table[i].quick)
			vec_push(&ret->needs, ((struct need){ .kind = NEED_FEATURE, .a = 1, .text = mem_str(probe_table[i].name) }));
	vec_push(&ret->needs, ((struct need){ .kind = NEED_MEMORY, .a = pages * PAGE_BYTES }));
	for (size_t i = 0; i < s->files.len; i++)
		list_file(ret, s, &s->files.at[i]);
	look_files(ret);
	for (size_t i = 0; i < s->files.len; i++)
		list_address(ret, &s->files.at[i]);
	return r;
}

static bool had_mapped(const struct snapshot *s, const struct file *f)
{
	const char *path = file_path(f);

	for (size_t i = 0; i < s->files.len; i++) {
		const struct file *had = &s->files.at[i];

		if (had->mapped && had->dev == f->dev && had->ino == f->ino && file_path(had) && path && strcmp(file_path(had), path) == 0)
			return true;
	}
	return false;
}

void preflight_list_later(const struct snapshot *before, const struct snapshot *now, struct need_list *ret)
{
	for (size_t i = 0; i < now->files.len; i++)
		if (now->files.at[i].mapped && !had_mapped(before, &now->files.at[i]))
			list_file(ret, now, &now->files.at[i]);
	look_files(ret);
}
