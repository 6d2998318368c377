/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/own.h"
#include "kernel/probe.h"
#include "kernel/probe_doors.h"

#define SETS(field) (1 + offsetof(struct kernel_features, field))
#define NEEDED .needed = true
#define QUICK(field) .quick = true, .flag = SETS(field)

const struct probe probe_table[] = {
	/* nothing works without these */
	{ "ptrace", "stop a task and read its registers", "everything", probe_ptrace, NEEDED },
	{ "clone3_set_tid", "make a task with a chosen pid", "restore", probe_clone3_set_tid, NEEDED, QUICK(clone3_set_tid) },
	{ "pidfd_getfd", "take a descriptor out of a task", "dump", probe_pidfd_getfd, NEEDED, QUICK(pidfd_getfd) },
	{ "kcmp", "see what tasks share", "dump", probe_kcmp, NEEDED, QUICK(kcmp) },
	{ "map_files", "open the file behind a mapping", "dump of mapped files", probe_map_files, NEEDED, QUICK(map_files) },
	{ "children", "list a task's children", "dump of trees", probe_children, NEEDED, QUICK(children) },
	{ "set_mm_map", "set where a task's heap, stack and arguments are", "restore", probe_set_mm_map, NEEDED, QUICK(set_mm_map) },
	{ "memfd", "memory with a descriptor", "restore of shared memory", probe_memfd, NEEDED, QUICK(memfd) },
	{ "mnt_id", "which mount an open file is on", "files on mounts of a container", probe_mnt_id, NEEDED },
	{ "ns_pid", "a task's pid in its own namespace", "dump of pid namespaces", probe_ns_pid, NEEDED },
	{ "unix_diag", "list unix sockets with their peers", "unix sockets", probe_unix_diag, NEEDED, .flag = SETS(unix_diag) },
	{ "inet_diag", "list TCP and UDP sockets", "TCP and UDP sockets", probe_inet_diag, NEEDED, .flag = SETS(inet_diag) },
	{ "timerfd", "see and set the ticks of a timerfd", "timerfds that have fired", probe_timerfd, NEEDED },

	/* memory */
	{ "mem_dirty_track", "track which pages a task changes", "pre-dumps and migration in rounds", probe_dirty_track },
	{ "pagemap_scan", "find the changed pages in one call", "tracking on kernels without soft-dirty bits; dumps are slower",
	  probe_pagemap_scan, QUICK(pagemap_scan) },
	{ "pagemap_scan_guard_pages", "tell guard pages from others", "guard pages (MADV_GUARD_INSTALL) come back as zero pages",
	  probe_pagemap_scan_guard, QUICK(pagemap_guard) },
	{ "guard_pages", "make guard pages", "guard pages in what is restored", probe_guard_pages, QUICK(guard_pages) },
	{ "soft_dirty", "a bit on each page that was written", "nothing where pagemap_scan and uffd_wp_async are there",
	  probe_soft_dirty, QUICK(soft_dirty) },
	{ "uffd", "userfaultfd", "lazy pages", probe_uffd, QUICK(uffd) },
	{ "uffd-noncoop", "userfaultfd that follows fork, mremap and munmap", "lazy pages of tasks that go on changing their mappings",
	  probe_uffd_noncoop },
	{ "uffd_wp_async", "the kernel notes writes by itself", "tracking on kernels without soft-dirty bits",
	  probe_uffd_wp_async, QUICK(uffd_wp_async) },
	{ "procmap_query", "ask for one mapping", "nothing: maps is read as text", probe_procmap_query, QUICK(procmap_query) },
	{ "memfd_hugetlb", "memfds of huge pages", "shared memory of huge pages", probe_memfd_hugetlb },
	{ "aio_remap", "move the ring of an AIO context", "tasks that use io_setup", probe_aio_remap },
	{ "can_map_vdso", "map the vdso at a chosen address", "nothing: the vdso is moved", probe_map_vdso },
	{ "compat_cr", "map the vdso of 32-bit programs", "32-bit programs", probe_map_vdso_32 },
	{ "overlayfs_maps", "maps tells the inode of files on overlayfs", "mapped files of a container are found by path alone",
	  probe_overlayfs_maps },

	/* tasks */
	{ "get_rseq_conf", "where a thread registered its rseq", "restartable sequences (glibc 2.35 and later use them)",
	  probe_get_rseq, .flag = SETS(ptrace_get_rseq) },
	{ "kcmp_epoll", "find the target of an epoll", "epolls whose target was closed or replaced", probe_kcmp_epoll, QUICK(kcmp_epoll) },
	{ "timer_cr_ids", "make a POSIX timer with a chosen id", "timer ids with large gaps are slow to restore",
	  probe_timer_restore_ids, QUICK(timer_restore_ids) },
	{ "pidfd_store", "descriptors that stand for tasks", "knowing a task from a later one with its pid", probe_pidfd_getfd },
	{ "seccomp_suspend", "set a traced task's seccomp aside", "tasks under seccomp", probe_seccomp_suspend,
	  .flag = SETS(seccomp_suspend) },
	{ "seccomp_filters", "read a task's seccomp filters", "tasks with seccomp filters", probe_seccomp_filters,
	  .flag = SETS(seccomp_filters) },
	{ "breakpoints", "hardware breakpoints", "nothing", probe_breakpoints },
	{ "loginuid", "set a task's audit login", "login uids", probe_loginuid },
	{ "fdinfo_lock", "which locks an open file has", "file locks", probe_fdinfo_lock },

	/* namespaces and mounts */
	{ "userns", "user namespaces", "containers without root", probe_userns, .flag = SETS(userns) },
	{ "timens", "time namespaces", "monotonic clocks that go on after a reboot or on another machine", probe_timens,
	  .flag = SETS(timens) },
	{ "cgroupns", "cgroup namespaces", "containers with a cgroup namespace", probe_cgroupns, .flag = SETS(cgroupns) },
	{ "external_net_ns", "restore into a network namespace that is there", "external network namespaces", probe_external_net_ns },
	{ "move_mount_set_group", "give a mount the propagation of another", "shared mounts in containers", probe_mount_set_group },
	{ "openat2", "open a path that can't leave a root", "safe paths in containers", probe_openat2 },
	{ "autofs", "automounts", "containers with autofs mounts", probe_autofs },
	{ "apparmor_stacking", "AppArmor profiles on profiles", "containers with AppArmor profiles of their own",
	  probe_apparmor_stacking },

	/* network */
	{ "tcp_repair", "read and set a TCP connection's state", "open TCP connections", probe_tcp_repair, QUICK(tcp_repair) },
	{ "tcp_half_closed", "the same for connections closed on one side", "half-closed TCP connections", probe_tcp_half_closed },
	{ "ipv6_freebind", "bind IPv6 sockets before their address is there", "IPv6 sockets bound to an address that comes later",
	  probe_ipv6_freebind },
	{ "sockopt_buf_lock", "whether a socket's buffer sizes were set", "buffers that grow by themselves stay fixed after restore",
	  probe_buf_lock },
	{ "net_diag_raw", "list raw sockets", "raw sockets", probe_raw_diag },
	{ "sk_ns", "which network namespace a socket is of", "sockets of another namespace than their task's", probe_sk_ns },
	{ "sk_unix_file", "open the file of a bound unix socket", "unix sockets whose path was renamed or covered", probe_sk_unix_file },
	{ "nftables", "nftables rules", "locking the network by nftables; rules of a container", probe_nftables,
	  .flag = SETS(nftables) },
	{ "network_lock_nftables", "hold packets back with nftables", "--network-lock nftables", probe_nftables },
	{ "has_ipt_legacy", "iptables of the old kind", "--network-lock iptables; iptables rules of a container", probe_ipt_legacy },
	{ "tun", "tun devices", "tun devices", probe_tun },
	{ "tun_ns", "which network namespace a tun device is of", "tun devices in containers", probe_tun_ns },
	{ "newifindex", "make a network device with a chosen index", "device indices in containers", probe_new_ifindex },
	{ "nsid", "ids of network namespaces", "nested network namespaces", probe_nsid },
	{ "link_nsid", "where a device's peer is", "veth pairs between namespaces", probe_link_nsid },
};

const size_t probe_count = ARRAY_LEN(probe_table);

const struct probe *probe_find(const char *name)
{
	for (size_t i = 0; i < probe_count; i++)
		if (strcmp(probe_table[i].name, name) == 0)
			return &probe_table[i];
	return NULL;
}

void kernel_features_ask(bool full, struct kernel_features *ret_features)
{
	struct kernel_features features = { 0 };
	const struct probe *probe;
	struct err err;

	for (probe = probe_table; probe < probe_table + probe_count; probe++)
		if (probe->flag && (probe->quick || full))
			*((bool *)&features + probe->flag - 1) = probe->door(&err) == 0;
	*ret_features = features;
}
