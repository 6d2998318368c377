/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apparmor.pb-c.h"
#include "autofs.pb-c.h"
#include "binfmt-misc.pb-c.h"
#include "bpfmap-data.pb-c.h"
#include "cgroup.pb-c.h"
#include "core.pb-c.h"
#include "cpuinfo.pb-c.h"
#include "fdinfo.pb-c.h"
#include "ferry-checksums.pb-c.h"
#include "ferry-link.pb-c.h"
#include "ferry-pagesums.pb-c.h"
#include "file-lock.pb-c.h"
#include "fs.pb-c.h"
#include "ghost-file.pb-c.h"
#include "inventory.pb-c.h"
#include "ipc-msg.pb-c.h"
#include "ipc-sem.pb-c.h"
#include "ipc-shm.pb-c.h"
#include "ipc-var.pb-c.h"
#include "memfd.pb-c.h"
#include "mm.pb-c.h"
#include "mnt.pb-c.h"
#include "netdev.pb-c.h"
#include "pagemap.pb-c.h"
#include "pidns.pb-c.h"
#include "pipe-data.pb-c.h"
#include "pstree.pb-c.h"
#include "remap-file-path.pb-c.h"
#include "seccomp.pb-c.h"
#include "sk-packet.pb-c.h"
#include "stats.pb-c.h"
#include "tcp-stream.pb-c.h"
#include "timens.pb-c.h"
#include "tty.pb-c.h"
#include "userns.pb-c.h"
#include "utsns.pb-c.h"

#include "image/catalog.h"

#define ONE(kind, file, magic, message, ...) \
	[IMAGE_##kind] = { #kind, file, magic, IMAGE_FRAMED, &message##__descriptor, true, __VA_ARGS__ }
#define MANY(kind, file, magic, message, ...) \
	[IMAGE_##kind] = { #kind, file, magic, IMAGE_FRAMED, &message##__descriptor, false, __VA_ARGS__ }
#define SERVICE(kind, text, file, magic, message, one) \
	[IMAGE_##kind] = { text, file, magic, IMAGE_FRAMED_SERVICE, &message##__descriptor, one, .apart = true }
#define RAW(kind, file, ...) [IMAGE_##kind] = { #kind, file, 0, IMAGE_FRAMED_RAW, __VA_ARGS__ }

const struct image_type image_types[IMAGE_KIND_COUNT] = {
	[IMAGE_INVENTORY] = { "INVENTORY", "inventory.img", 0x58313116, IMAGE_FRAMED_BARE, &inventory_entry__descriptor, true },
	MANY(PSTREE, "pstree.img", 0x50273030, pstree_entry),
	ONE(CORE, "core-*.img", 0x55053847, core_entry),
	ONE(IDS, "ids-*.img", 0x54432030, task_kobj_ids_entry),
	ONE(MM, "mm-*.img", 0x57492820, mm_entry),
	ONE(PAGEMAP, "pagemap-*.img", 0x56084025, pagemap_head, .apart = true),
	ONE(PAGEMAP_SHMEM, "pagemap-shmem-*.img", 0x56084025, pagemap_head, .apart = true),
	RAW(PAGES, "pages-*.img", .apart = true),

	MANY(FDINFO, "fdinfo-*.img", 0x56213732, fdinfo_entry),
	MANY(FILES, "files.img", 0x56303138, file_entry),
	ONE(FS, "fs-*.img", 0x51403912, fs_entry),
	ONE(GHOST_FILE, "ghost-file-*.img", 0x52583605, ghost_file_entry, .hex = true),
	MANY(REMAP_FPATH, "remap-fpath.img", 0x59133954, remap_file_path_entry),
	MANY(FILE_LOCKS, "filelocks.img", 0x54323616, file_lock_entry),

	MANY(PIPES_DATA, "pipes-data.img", 0x56453709, pipe_data_entry),
	MANY(FIFO_DATA, "fifo-data.img", 0x59333054, pipe_data_entry),
	MANY(SK_QUEUES, "sk-queues.img", 0x56264026, sk_packet_entry),
	ONE(TCP_STREAM, "tcp-stream-*.img", 0x51465506, tcp_stream_entry, .hex = true),
	MANY(TTY_INFO, "tty-info.img", 0x59453036, tty_info_entry),
	MANY(TTY_DATA, "tty-data.img", 0x59413026, tty_data_entry),
	MANY(MEMFD_INODE, "memfd.img", 0x48453499, memfd_inode_entry),
	MANY(BPFMAP_DATA, "bpfmap-data.img", 0x64324033, bpfmap_data_entry),

	ONE(CGROUP, "cgroup.img", 0x59383330, cgroup_entry),
	ONE(SECCOMP, "seccomp.img", 0x64413049, seccomp_entry),
	ONE(APPARMOR, "apparmor.img", 0x59423047, apparmor_entry),
	ONE(CPUINFO, "cpuinfo.img", 0x61404013, cpuinfo_entry, .apart = true),

	MANY(MNTS, "mountpoints-*.img", 0x55563928, mnt_entry),
	MANY(AUTOFS, "autofs-*.img", 0x49353943, autofs_entry),
	MANY(BINFMT_MISC, "binfmt-misc.img", 0x67343323, binfmt_misc_entry),
	MANY(NETDEV, "netdev-*.img", 0x57373951, net_device_entry),
	ONE(NETNS, "netns-*.img", 0x55933752, netns_entry),
	ONE(UTSNS, "utsns-*.img", 0x54473203, utsns_entry),
	ONE(USERNS, "userns-*.img", 0x55474906, userns_entry),
	ONE(TIMENS, "timens-*.img", 0x43114433, timens_entry),
	ONE(PIDNS, "pidns-*.img", 0x61157326, pidns_entry),
	ONE(IPC_VAR, "ipcns-var-*.img", 0x53115007, ipc_var_entry),
	MANY(IPCNS_SHM, "ipcns-shm-*.img", 0x46283044, ipc_shm_entry),
	MANY(IPCNS_MSG, "ipcns-msg-*.img", 0x55453737, ipc_msg_entry),
	MANY(IPCNS_SEM, "ipcns-sem-*.img", 0x59573019, ipc_sem_entry),

	SERVICE(STATS_DUMP, "STATS", "stats-dump", 0x57093306, stats_entry, true),
	SERVICE(STATS_RESTORE, "STATS", "stats-restore", 0x57093306, stats_entry, true),
	SERVICE(IRMAP_CACHE, "IRMAP_CACHE", "irmap-cache", 0x57004059, irmap_cache_entry, false),

	RAW(IFADDR, "ifaddr-*.img"),
	RAW(ROUTE, "route-*.img"),
	RAW(ROUTE6, "route6-*.img"),
	RAW(RULE, "rule-*.img"),
	RAW(TMPFS, "tmpfs-*.tar.gz.img"),
	RAW(TMPFS_DEV, "tmpfs-dev-*.tar.gz.img"),
	RAW(IPTABLES, "iptables-*.img"),
	RAW(IP6TABLES, "ip6tables-*.img"),
	RAW(NFTABLES, "nftables-*.img"),
	RAW(NETNF_CT, "netns-ct-*.img"),
	RAW(NETNF_EXP, "netns-exp-*.img"),

	MANY(FERRY_CHECKSUMS, "ferry-checksums.img", 0x46525943, image_checksum_entry),
	ONE(FERRY_LINK, "ferry-link.img", 0x4652594c, link_entry),
	ONE(FERRY_REPLACED, "ferry-replaced.img", 0x46525952, replaced_entry, .apart = true),
	ONE(FERRY_PAGESUMS, "ferry-pages-*.img", 0x46525953, page_sums_head, .apart = true),
	MANY(FERRY_SENT, "ferry-sent-*.img", 0x46525954, pagemap_entry),
	MANY(FERRY_SENT_SHMEM, "ferry-sent-shmem-*.img", 0x46525954, pagemap_entry),
};

void image_file_name(enum image_kind kind, uint64_t id, char buf[static IMAGE_NAME_MAX])
{
	const struct image_type *t = &image_types[kind];
	const char *star = strchr(t->file, '*');

	if (!star)
		snprintf(buf, IMAGE_NAME_MAX, "%s", t->file);
	else
		snprintf(buf, IMAGE_NAME_MAX, t->hex ? "%.*s%" PRIx64 "%s" : "%.*s%" PRIu64 "%s",
			 (int)(star - t->file), t->file, id, star + 1);
}

/* A name is a kind's when the id that is read from it makes the same name again: no leading zeros, no overflow. */
bool image_parse_name(const char *name, enum image_kind *ret_kind, uint64_t *ret_id)
{
	for (enum image_kind kind = 0; kind < IMAGE_KIND_COUNT; kind++) {
		const struct image_type *t = &image_types[kind];
		size_t prefix = strcspn(t->file, "*");
		char again[IMAGE_NAME_MAX];
		uint64_t id = 0;

		if (strncmp(name, t->file, prefix) != 0)
			continue;
		if (t->file[prefix])
			id = strtoull(name + prefix, NULL, t->hex ? 16 : 10);
		image_file_name(kind, id, again);
		if (strcmp(name, again) != 0)
			continue;
		*ret_kind = kind;
		*ret_id = id;
		return true;
	}
	return false;
}

static uint64_t round_up_8(uint64_t n)
{
	return n > INT64_MAX ? n : (n + 7) & ~7ull;     /* no file is that long: refused by who reads it */
}

static uint64_t ghost_payload(const GhostFileEntry *ghost)
{
	return ghost->has_chunks && ghost->chunks ? 0 : UINT64_MAX;
}

/* More than a file can have: refused by who reads it. */
static uint64_t sums_payload(const PageSumsHead *sums)
{
	return sums->pages > INT64_MAX / sizeof(uint64_t) ? INT64_MAX : sums->pages * sizeof(uint64_t);
}

static uint64_t shm_payload(const IpcShmEntry *shm)
{
	return shm->has_in_pagemaps && shm->in_pagemaps ? 0 : round_up_8(shm->size);
}

uint64_t image_payload(const ProtobufCMessage *record)
{
	const ProtobufCMessageDescriptor *d = record->descriptor;
	const void *r = record;

	if (d == &pipe_data_entry__descriptor)
		return ((const PipeDataEntry *)r)->bytes;
	if (d == &sk_packet_entry__descriptor)
		return ((const SkPacketEntry *)r)->length;
	if (d == &tcp_stream_entry__descriptor)
		return (uint64_t)((const TcpStreamEntry *)r)->inq_len + ((const TcpStreamEntry *)r)->outq_len;
	if (d == &ghost_file_entry__descriptor)
		return ghost_payload(r);
	if (d == &ghost_chunk_entry__descriptor)
		return ((const GhostChunkEntry *)r)->len;
	if (d == &bpfmap_data_entry__descriptor)
		return (uint64_t)((const BpfmapDataEntry *)r)->keys_bytes + ((const BpfmapDataEntry *)r)->values_bytes;
	if (d == &ipc_shm_entry__descriptor)
		return shm_payload(r);
	if (d == &ipc_msg__descriptor)
		return round_up_8(((const IpcMsg *)r)->msize);
	if (d == &ipc_sem_entry__descriptor)
		return round_up_8(2 * (uint64_t)((const IpcSemEntry *)r)->nsems);
	if (d == &page_sums_head__descriptor)
		return sums_payload(r);
	return 0;
}

uint64_t image_children(const ProtobufCMessage *record, const ProtobufCMessageDescriptor **ret_child)
{
	const ProtobufCMessageDescriptor *d = record->descriptor;

	if (d == &pagemap_head__descriptor) {
		*ret_child = &pagemap_entry__descriptor;
		return UINT64_MAX;
	}
	if (d == &ghost_file_entry__descriptor) {
		*ret_child = &ghost_chunk_entry__descriptor;
		return ghost_payload((const GhostFileEntry *)(const void *)record) == 0 ? UINT64_MAX : 0;
	}
	if (d == &ipc_msg_entry__descriptor) {
		*ret_child = &ipc_msg__descriptor;
		return ((const IpcMsgEntry *)(const void *)record)->qnum;
	}
	return 0;
}
