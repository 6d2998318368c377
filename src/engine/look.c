/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "engine/see.h"
#include "page/page.h"

static void look_at_task(pid_t pid, struct look *look)
{
	struct proc_ids children = { 0 };
	struct proc_maps maps = { 0 };
	struct err err;

	if (proc_maps(pid, &maps, &err) < 0)
		return;
	if (proc_smaps_flags(pid, &maps, &err) < 0) {
		proc_maps_free(&maps);
		return;
	}
	vec_push(&look->tasks, ((struct look_task){ pid, maps }));
	if (proc_children(pid, &children, &err) >= 0)
		for (size_t i = 0; i < children.len; i++)
			look_at_task(children.at[i], look);
	vec_free(&children);
}

void look_at(pid_t root, struct look *ret_look)
{
	*ret_look = (struct look){ 0 };
	look_at_task(root, ret_look);
}

uint64_t look_pages(const struct look *look)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < look->tasks.len; i++)
		for (size_t k = 0; k < look->tasks.at[i].maps.len; k++)
			bytes += look->tasks.at[i].maps.at[k].anon_bytes;
	return bytes / PAGE_BYTES;
}

bool look_protected(const struct look *look)
{
	for (size_t i = 0; i < look->tasks.len; i++)
		for (size_t k = 0; k < look->tasks.at[i].maps.len; k++)
			if (look->tasks.at[i].maps.at[k].vm_flags & VMF_UW)
				return true;
	return false;
}

void look_free(struct look *look)
{
	for (size_t i = 0; i < look->tasks.len; i++)
		proc_maps_free(&look->tasks.at[i].maps);
	vec_free(&look->tasks);
}
