/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "kernel/kcmp_set.h"

int kcmp_set_add(struct kcmp_set *set, pid_t pid, pid_t *ret_same, struct err *err)
{
	size_t low = 0, high = set->pids.len;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int r = sys_kcmp(pid, set->pids.at[mid], set->what, 0, 0, err);

		if (r < 0)
			return r;
		if (r == 0) {
			*ret_same = set->pids.at[mid];
			return 0;
		}
		if (r == 1)
			high = mid;
		else
			low = mid + 1;
	}
	vec_push(&set->pids, 0);
	memmove(&set->pids.at[low + 1], &set->pids.at[low], (set->pids.len - 1 - low) * sizeof(pid_t));
	set->pids.at[low] = pid;
	*ret_same = 0;
	return 0;
}

void kcmp_set_free(struct kcmp_set *set)
{
	vec_free(&set->pids);
}
