/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.h - what this kernel can do for this user, found by trying.
 *
 *	kernel_features_ask()   the quick doors, asked once at the start of a session
 *	                        (some 100 us, no fork), then passed on as const
 *	probe_table             every door with its words, for `ferry check`: a walk
 *
 * A probe really uses its door, in a child (and namespaces of its own) where it
 * would leave something behind.  Nothing looks at a version.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct kernel_features {
	/* quick: always asked */
	bool pagemap_scan;      /* PAGEMAP_SCAN */
	bool pagemap_guard;     /* PAGEMAP_SCAN tells guard pages */
	bool soft_dirty;
	bool uffd;
	bool uffd_wp_async;     /* with WP_UNPOPULATED */
	bool procmap_query;
	bool guard_pages;       /* MADV_GUARD_INSTALL */
	bool map_files;
	bool set_mm_map;        /* PR_SET_MM_MAP */
	bool clone3_set_tid;
	bool pidfd_getfd;
	bool kcmp;
	bool kcmp_epoll;
	bool children;          /* /proc/PID/task/TID/children */
	bool timer_restore_ids; /* PR_TIMER_CREATE_RESTORE_IDS */
	bool memfd;
	bool tcp_repair;
	/* slow (a fork, a namespace): only with `full` */
	bool ptrace_get_rseq;
	bool seccomp_suspend;
	bool seccomp_filters;
	bool userns, timens, cgroupns;
	bool unix_diag, inet_diag;
	bool nftables;
};

/* A door that is shut is false, for whatever reason; can't fail. */
void kernel_features_ask(bool full, struct kernel_features *ret_features);

struct probe {
	const char *name;       /* as `check --feature` takes it; CRIU's name where CRIU has the thing */
	const char *what;       /* "page scan: which pages changed, in one call" */
	const char *lost;       /* what does not work without it */
	int (*door)(struct err *err);   /* 0: open; -errno and why */
	size_t flag;            /* 1 + offset of its bool in kernel_features, 0: none */
	bool needed;            /* nothing can be dumped or restored without it */
	bool quick;
};

extern const struct probe probe_table[];
extern const size_t probe_count;

const struct probe *probe_find(const char *name);       /* NULL: no such feature */
