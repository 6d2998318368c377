/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdso.h - is a program's vdso this kernel's?
 *
 * The vdso is code that the kernel puts into every program, and a program may
 * stand in it or keep addresses of it.  A restored task has that of the kernel
 * under which it is made, so both must be the same, byte by byte, and the
 * kernel's data pages must lie before it in the same way.  Asked at a dump, so
 * that a program which changed its own is not ended, and before a restore.
 *
 * All checks: EOPNOTSUPP when it is another one.
 */
#pragma once
#include "inject/vessel.h"
#include "model/snapshot.h"

/* ferry's own, which is what a vessel begins with. */
int vdso_own(struct vdso *ret_own, struct err *err);
/* Has this memory all parts of it, laid out as in `own`? */
int vdso_check_layout(const struct vdso *own, const struct mm *mm, struct err *err);
/* `len` bytes that were found at `at`, all of them in the vdso of a memory whose layout is right. */
int vdso_check_bytes(const struct mm *mm, taddr at, const void *bytes, size_t len, struct err *err);
/* NULL: it has none. */
const struct vma *vdso_of(const struct mm *mm);
