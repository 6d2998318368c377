/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proc_map.h - the mappings of a process, from maps and smaps.
 *
 * maps is cheap and read as often as needed; smaps makes the kernel walk every
 * page table, so its VmFlags are read once, while the task still runs, and laid
 * over a list by address.  The list owns the text that its names point into.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "kernel/proc.h"

struct proc_map {
	uint64_t start, end;            /* taddr, page-aligned, start < end; ascending, no overlap */
	uint64_t pgoff_bytes;           /* where in the file; nothing for anonymous memory */
	uint64_t vm_flags;              /* VMF_*; 0 until proc_smaps_flags() */
	uint64_t anon_bytes;            /* of pages of its own, not a file's; as vm_flags */
	uint64_t shared_bytes;          /* of pages that others map too (copy on write, or a file's); as vm_flags */
	dev_t dev;
	ino_t ino;                      /* 0: no file behind it */
	const char *name;               /* "/lib/x.so", "/tmp/y (deleted)", "[heap]", "[anon:z]", "" */
	int prot;                       /* PROT_* */
	bool shared;
};

struct proc_maps { struct proc_map *at; size_t len, cap; struct proc_text text; };

/*
 * The list of all mappings, "[vsyscall]" included.  A line end in a path, that maps shows as
 * "\012", is there as itself: such names are asked again from map_files, where nothing is escaped.
 * *maps is empty (zeroed) or an old list, whose space is used again; on failure it is emptied.
 */
int proc_maps(pid_t pid, struct proc_maps *maps, struct err *err);
void proc_maps_free(struct proc_maps *maps);

/* The text in maps->text into maps->at; names with escapes stay as they are.  The text is changed. */
int proc_maps_parse(struct proc_maps *maps, struct err *err);

/* The mapping that holds `taddr`, NULL if none. */
struct proc_map *proc_maps_find(const struct proc_maps *maps, uint64_t taddr);

/*
 * Sets vm_flags of each mapping from smaps; one whose start and end smaps does not have (the task went
 * on, or it was split or merged meanwhile) gets 0.  Returns how many those are.
 */
int proc_smaps_flags(pid_t pid, struct proc_maps *maps, struct err *err);
int proc_smaps_parse(const char *text, size_t len, struct proc_maps *maps, struct err *err);

/* A bit for each two-letter code of VmFlags; VMF_OTHER for a code that is not known here. */
enum vmf_bit {
	VMF_BIT_RD, VMF_BIT_WR, VMF_BIT_EX, VMF_BIT_SH, VMF_BIT_MR, VMF_BIT_MW, VMF_BIT_ME, VMF_BIT_MS,
	VMF_BIT_GD, VMF_BIT_PF, VMF_BIT_LO, VMF_BIT_IO, VMF_BIT_SR, VMF_BIT_RR, VMF_BIT_DC, VMF_BIT_DE,
	VMF_BIT_AC, VMF_BIT_NR, VMF_BIT_HT, VMF_BIT_SF, VMF_BIT_AR, VMF_BIT_WF, VMF_BIT_DD, VMF_BIT_SD,
	VMF_BIT_MM, VMF_BIT_HG, VMF_BIT_NH, VMF_BIT_MG, VMF_BIT_UM, VMF_BIT_UW, VMF_BIT_UI, VMF_BIT_SS,
	VMF_BIT_SL, VMF_BIT_LF, VMF_BIT_DP, VMF_BIT_GU, VMF_BIT_OTHER,
	VMF_BIT_KEY,
};

#define VMF(code) (1ull << VMF_BIT_##code)
#define VMF_RD VMF(RD)  /* readable */
#define VMF_WR VMF(WR)  /* writable */
#define VMF_EX VMF(EX)  /* executable */
#define VMF_SH VMF(SH)  /* shared */
#define VMF_MR VMF(MR)  /* may be made readable */
#define VMF_MW VMF(MW)  /* may be made writable */
#define VMF_ME VMF(ME)  /* may be made executable */
#define VMF_MS VMF(MS)  /* may be shared: a shared mapping, also where a read-only file hides "sh" */
#define VMF_GD VMF(GD)  /* MAP_GROWSDOWN */
#define VMF_PF VMF(PF)  /* page frames, no struct page */
#define VMF_LO VMF(LO)  /* mlock */
#define VMF_IO VMF(IO)  /* device memory */
#define VMF_SR VMF(SR)  /* MADV_SEQUENTIAL */
#define VMF_RR VMF(RR)  /* MADV_RANDOM */
#define VMF_DC VMF(DC)  /* MADV_DONTFORK */
#define VMF_DE VMF(DE)  /* mremap may not grow it */
#define VMF_AC VMF(AC)  /* counts as committed memory */
#define VMF_NR VMF(NR)  /* MAP_NORESERVE */
#define VMF_HT VMF(HT)  /* hugetlb */
#define VMF_SF VMF(SF)  /* MAP_SYNC */
#define VMF_AR VMF(AR)  /* of the architecture */
#define VMF_WF VMF(WF)  /* MADV_WIPEONFORK */
#define VMF_DD VMF(DD)  /* MADV_DONTDUMP */
#define VMF_SD VMF(SD)  /* soft-dirty: new or moved since the last clear */
#define VMF_MM VMF(MM)  /* holds more than pages of one kind (VM_MIXEDMAP) */
#define VMF_HG VMF(HG)  /* MADV_HUGEPAGE */
#define VMF_NH VMF(NH)  /* MADV_NOHUGEPAGE, and MAP_STACK */
#define VMF_MG VMF(MG)  /* MADV_MERGEABLE */
#define VMF_UM VMF(UM)  /* userfaultfd: missing pages */
#define VMF_UW VMF(UW)  /* userfaultfd: write protection */
#define VMF_UI VMF(UI)  /* userfaultfd: minor faults */
#define VMF_SS VMF(SS)  /* shadow stack */
#define VMF_SL VMF(SL)  /* mseal */
#define VMF_LF VMF(LF)  /* with "lo": mlock2(MLOCK_ONFAULT) */
#define VMF_DP VMF(DP)  /* MAP_DROPPABLE */
#define VMF_GU VMF(GU)  /* may hold guard pages (MADV_GUARD_INSTALL) */
#define VMF_OTHER VMF(OTHER)
#define VMF_KEY VMF(KEY)        /* no code, but a line of its own: has a protection key other than 0 */
