/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe_doors.h - the doors that probe.c lists.  Private to the probe_*.c files.
 *
 * Each returns 0 when the door is open, else -errno with the reason in *err.
 */
#pragma once
#include <sys/types.h>

#include "base/err.h"

/* Runs `door` (0 or -errno) in a child that ends afterwards; what it changes of itself dies with it. */
int probe_in_child(int (*door)(void), const char *what, struct err *err);

/* Makes a child that has run `prepare` (NULL: nothing), stops it with ptrace, runs `door` on it, and kills it. */
int probe_tracee(int (*prepare)(void), int (*door)(pid_t pid, struct err *err), struct err *err);

/* probe_mem.c */
int probe_pagemap_scan(struct err *err);
int probe_pagemap_scan_guard(struct err *err);
int probe_soft_dirty(struct err *err);
int probe_dirty_track(struct err *err);
int probe_uffd(struct err *err);
int probe_uffd_wp_async(struct err *err);
int probe_uffd_noncoop(struct err *err);
int probe_procmap_query(struct err *err);
int probe_guard_pages(struct err *err);
int probe_map_files(struct err *err);
int probe_set_mm_map(struct err *err);
int probe_memfd(struct err *err);
int probe_memfd_hugetlb(struct err *err);
int probe_aio_remap(struct err *err);
int probe_map_vdso(struct err *err);
int probe_map_vdso_32(struct err *err);

/* probe_task.c */
int probe_clone3_set_tid(struct err *err);
int probe_pidfd_getfd(struct err *err);
int probe_kcmp(struct err *err);
int probe_kcmp_epoll(struct err *err);
int probe_children(struct err *err);
int probe_ns_pid(struct err *err);
int probe_loginuid(struct err *err);
int probe_timer_restore_ids(struct err *err);
int probe_timerfd(struct err *err);
int probe_mnt_id(struct err *err);
int probe_fdinfo_lock(struct err *err);
int probe_ptrace(struct err *err);
int probe_get_rseq(struct err *err);
int probe_breakpoints(struct err *err);
int probe_seccomp_suspend(struct err *err);
int probe_seccomp_filters(struct err *err);

/* probe_ns.c */
int probe_userns(struct err *err);
int probe_timens(struct err *err);
int probe_cgroupns(struct err *err);
int probe_external_net_ns(struct err *err);
int probe_openat2(struct err *err);
int probe_autofs(struct err *err);
int probe_apparmor_stacking(struct err *err);
int probe_mount_set_group(struct err *err);
int probe_overlayfs_maps(struct err *err);

/* probe_net.c, probe_link.c */
int probe_tcp_repair(struct err *err);
int probe_tcp_half_closed(struct err *err);
int probe_ipv6_freebind(struct err *err);
int probe_buf_lock(struct err *err);
int probe_sk_ns(struct err *err);
int probe_sk_unix_file(struct err *err);
int probe_unix_diag(struct err *err);
int probe_inet_diag(struct err *err);
int probe_raw_diag(struct err *err);
int probe_tun(struct err *err);
int probe_tun_ns(struct err *err);
int probe_nftables(struct err *err);
int probe_ipt_legacy(struct err *err);
int probe_new_ifindex(struct err *err);
int probe_nsid(struct err *err);
int probe_link_nsid(struct err *err);
