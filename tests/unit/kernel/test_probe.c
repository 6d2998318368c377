/* SPDX-License-Identifier: Apache-2.0 */
/* The table is whole, every door can be tried by anybody, and trying leaves nothing behind. */
#include "cm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernel/probe.h"
#include "kernel/proc.h"
#include "kernel/proc_map.h"

static void names_are_there_once(void **state)
{
	/* what callers of `check --feature` ask for */
	static const char *const names[] = {
		"userns", "mnt_id", "mem_dirty_track", "uffd", "uffd-noncoop", "tcp_half_closed", "fdinfo_lock", "seccomp_filters",
		"seccomp_suspend", "network_lock_nftables", "cgroupns", "get_rseq_conf", "nftables", "has_ipt_legacy", "aio_remap",
		"kcmp_epoll", "ipv6_freebind", "timens", "tun", "tun_ns", "newifindex", "loginuid", "pagemap_scan",
		"pagemap_scan_guard_pages", "memfd_hugetlb", "link_nsid", "ns_pid", "nsid", "sk_ns", "sk_unix_file",
		"sockopt_buf_lock", "net_diag_raw", "timerfd", "pidfd_store", "autofs", "apparmor_stacking", "move_mount_set_group",
		"compat_cr", "can_map_vdso", "clone3_set_tid", "external_net_ns", "openat2", "breakpoints", "overlayfs_maps",
		"timer_cr_ids",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!probe_find(names[i]))
			fail_msg("no probe for '%s'", names[i]);
	for (size_t i = 0; i < probe_count; i++) {
		const struct probe *p = &probe_table[i];

		assert_true(p->name && p->what && p->lost && p->door);
		assert_ptr_equal(probe_find(p->name), p);
		assert_true(p->flag <= sizeof(struct kernel_features));
		assert_true(!p->quick || p->flag);
	}
	assert_null(probe_find("no such thing"));
}

static size_t descriptors(void)
{
	struct proc_ids fds;
	struct err err;
	size_t n;

	assert_int_equal(proc_fds(getpid(), &fds, &err), 0);
	n = fds.len;
	vec_free(&fds);
	return n;
}

static void doors_leave_nothing(void **state)
{
	size_t before = descriptors();
	struct err err;

	(void)state;
	for (size_t i = 0; i < probe_count; i++) {
		const struct probe *p = &probe_table[i];
		uint64_t start = clock_us();
		int r = p->door(&err);

		printf("%-26s %s %6lu us  %s\n", p->name, r == 0 ? "yes" : "no ", clock_us() - start, r == 0 ? "" : err.text);
		assert_true(r <= 0);
		if (r < 0)
			assert_true(err.code == -r && err.text[0]);
		if (descriptors() != before)
			fail_msg("%s left a descriptor", p->name);
		assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	}
}

static void features_agree_with_the_table(void **state)
{
	struct kernel_features quick, full;
	const bool *q = (const bool *)&quick, *f = (const bool *)&full;
	struct err err;

	(void)state;
	kernel_features_ask(false, &quick);
	kernel_features_ask(true, &full);
	for (size_t i = 0; i < probe_count; i++) {
		const struct probe *p = &probe_table[i];

		if (!p->flag)
			continue;
		assert_int_equal(f[p->flag - 1], p->door(&err) == 0);
		assert_int_equal(q[p->flag - 1], p->quick && f[p->flag - 1]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_there_once), cmocka_unit_test(doors_leave_nothing),
		cmocka_unit_test(features_agree_with_the_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
