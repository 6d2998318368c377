/* SPDX-License-Identifier: Apache-2.0 */
/*
 * catalog.h - which images there are, and how each is laid out.
 *
 * One line a kind in catalog.c: file name, magic, framing, message.  Whoever
 * walks an image without knowing it (show, the checks of broken input) asks
 * here what comes next; whoever writes one never spells a name or a magic.
 *
 *	header   the magics that the framing asks for
 *	record   u32 size, `size` bytes of one message
 *	payload  raw bytes after a record, as many as image_payload() says
 *	children records of another message after a record, image_children() many
 */
#pragma once
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

enum image_kind {
	IMAGE_INVENTORY, IMAGE_PSTREE, IMAGE_CORE, IMAGE_IDS, IMAGE_MM,
	IMAGE_PAGEMAP, IMAGE_PAGEMAP_SHMEM, IMAGE_PAGES,
	IMAGE_FDINFO, IMAGE_FILES, IMAGE_FS, IMAGE_GHOST_FILE, IMAGE_REMAP_FPATH, IMAGE_FILE_LOCKS,
	IMAGE_PIPES_DATA, IMAGE_FIFO_DATA, IMAGE_SK_QUEUES, IMAGE_TCP_STREAM,
	IMAGE_TTY_INFO, IMAGE_TTY_DATA, IMAGE_MEMFD_INODE, IMAGE_BPFMAP_DATA,
	IMAGE_CGROUP, IMAGE_SECCOMP, IMAGE_APPARMOR, IMAGE_CPUINFO,
	IMAGE_MNTS, IMAGE_AUTOFS, IMAGE_BINFMT_MISC, IMAGE_NETDEV, IMAGE_NETNS, IMAGE_UTSNS, IMAGE_USERNS,
	IMAGE_TIMENS, IMAGE_PIDNS, IMAGE_IPC_VAR, IMAGE_IPCNS_SHM, IMAGE_IPCNS_MSG, IMAGE_IPCNS_SEM,
	IMAGE_STATS_DUMP, IMAGE_STATS_RESTORE, IMAGE_IRMAP_CACHE,
	/* without header and records: whatever the tool that made them writes */
	IMAGE_IFADDR, IMAGE_ROUTE, IMAGE_ROUTE6, IMAGE_RULE, IMAGE_TMPFS, IMAGE_TMPFS_DEV,
	IMAGE_IPTABLES, IMAGE_IP6TABLES, IMAGE_NFTABLES, IMAGE_NETNF_CT, IMAGE_NETNF_EXP,
	/* ours: see checksums.h, link.h, page/sums.h, and page/ends.h for what a page server was sent */
	IMAGE_FERRY_CHECKSUMS, IMAGE_FERRY_LINK, IMAGE_FERRY_REPLACED, IMAGE_FERRY_PAGESUMS,
	IMAGE_FERRY_SENT, IMAGE_FERRY_SENT_SHMEM,
	IMAGE_KIND_COUNT
};

enum image_framing {
	IMAGE_FRAMED,           /* the common magic, then its own */
	IMAGE_FRAMED_BARE,      /* its own alone */
	IMAGE_FRAMED_SERVICE,   /* the service magic, then its own */
	IMAGE_FRAMED_RAW,       /* nothing */
};

#define IMAGE_MAGIC_COMMON  0x54564319u
#define IMAGE_MAGIC_SERVICE 0x55105940u
#define IMAGE_NAME_MAX      64u

struct image_type {
	const char *name;       /* "CORE", as in JSON; both kinds of stats are STATS */
	const char *file;       /* "core-*.img"; the id stands for the star */
	uint32_t magic;
	enum image_framing framing;
	const ProtobufCMessageDescriptor *record;       /* NULL: raw */
	bool single;            /* exactly one record */
	bool hex;               /* the id in its name is hexadecimal */
	bool apart;             /* may come from something else than the dump of this directory (page server, cpuinfo) */
};

extern const struct image_type image_types[IMAGE_KIND_COUNT];

/* Does such an image tell where the pages are of a task, or of shared memory? */
static inline bool image_is_pagemap(enum image_kind kind)
{
	return kind == IMAGE_PAGEMAP || kind == IMAGE_PAGEMAP_SHMEM;
}

/* "core-12.img" for (IMAGE_CORE, 12); the id of kinds that are one a directory is not looked at */
void image_file_name(enum image_kind kind, uint64_t id, char buf[static IMAGE_NAME_MAX]);

/* The reverse.  False when no kind has files of exactly that name; id is 0 for kinds that are one a directory. */
bool image_parse_name(const char *name, enum image_kind *ret_kind, uint64_t *ret_id);

/* Raw bytes that follow this record in an image; UINT64_MAX: all that the file has left. */
uint64_t image_payload(const ProtobufCMessage *record);

/* Records of another kind that follow this one: how many (UINT64_MAX: up to the end) and of which message. */
uint64_t image_children(const ProtobufCMessage *record, const ProtobufCMessageDescriptor **ret_child);
