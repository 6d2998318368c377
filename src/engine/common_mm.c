/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "engine/common_mm.h"
#include "resource/resource.h"

static bool is_private(const struct vma *v)
{
	return v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE) && !(v->status & (VMA_VVAR | VMA_VDSO));
}

static bool same_file(const struct snapshot *old, const struct vma *a, const struct snapshot *now, const struct vma *b)
{
	const char *x = file_path(snapshot_file(old, (uint32_t)a->object)), *y = file_path(snapshot_file(now, (uint32_t)b->object));

	return x && y && strcmp(x, y) == 0 && !snapshot_ghost_of(old, (uint32_t)a->object) && !snapshot_ghost_of(now, (uint32_t)b->object) &&
	       a->pgoff - a->start == b->pgoff - b->start;
}

static bool alike(const struct snapshot *old, const struct vma *a, const struct snapshot *now, const struct vma *b)
{
	return is_private(a) && a->prot == b->prot && a->flags == b->flags && a->status == b->status && a->account == b->account &&
	       a->madvise == b->madvise && (a->status & VMA_ANON_PRIVATE || same_file(old, a, now, b));
}

void common_mm(const struct snapshot *old, const struct task *before, const struct snapshot *now, const struct task *after,
	       struct taddr_ranges *out)
{
	size_t i = 0, k = 0;

	while (i < before->mm.vmas.len && k < after->mm.vmas.len) {
		const struct vma *a = &before->mm.vmas.at[i], *b = &after->mm.vmas.at[k];
		taddr start = a->start > b->start ? a->start : b->start, end = a->end < b->end ? a->end : b->end;

		if (start < end && alike(old, a, now, b))
			vec_push(out, ((struct taddr_range){ start, end }));
		if (a->end <= b->end)
			i++;
		if (b->end <= a->end)
			k++;
	}
}
