/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "engine/vdso.h"

int vdso_own(struct vdso *ret_own, struct err *err)
{
	struct proc_maps maps = { 0 };
	int r = proc_maps(getpid(), &maps, err);

	if (r >= 0)
		r = vdso_find(&maps, ret_own, err);
	proc_maps_free(&maps);
	return r < 0 ? r : 0;
}

const struct vma *vdso_of(const struct mm *mm)
{
	for (size_t i = 0; i < mm->vmas.len; i++)
		if (mm->vmas.at[i].status & VMA_VDSO)
			return &mm->vmas.at[i];
	return NULL;
}

static uint64_t code_bytes(const struct vdso *v)
{
	for (unsigned int i = 0; i < v->parts; i++)
		if (v->part[i].code)
			return v->part[i].len_bytes;
	return 0;
}

int vdso_check_layout(const struct vdso *own, const struct mm *mm, struct err *err)
{
	const struct vma *first = NULL, *last = NULL, *code = vdso_of(mm);
	unsigned int codes = 0;
	bool torn = false;

	for (size_t i = 0; i < mm->vmas.len; i++) {
		const struct vma *v = &mm->vmas.at[i];

		if (!(v->status & (VMA_VVAR | VMA_VDSO)))
			continue;
		torn |= last && last->end != v->start;
		codes += v->status & VMA_VDSO ? 1 : 0;
		first = first ? first : v;
		last = v;
	}
	if (codes != 1)
		return err_set(err, EOPNOTSUPP, "it has %u vdso mappings: not handled", codes);
	if (torn || last->end - first->start != vdso_span(own) || code->start - first->start != vdso_code_offset(own) ||
	    code->end - code->start != code_bytes(own))
		return err_set(err, EOPNOTSUPP, "the vdso is laid out otherwise than this kernel's");
	return 0;
}

int vdso_check_bytes(const struct mm *mm, taddr at, const void *bytes, size_t len, struct err *err)
{
	const char *own = (const char *)getauxval(AT_SYSINFO_EHDR);

	if (memcmp(own + (at - vdso_of(mm)->start), bytes, len) != 0)
		return err_set(err, EOPNOTSUPP, "its vdso is not this kernel's: it comes from another one, or was changed");
	return 0;
}
