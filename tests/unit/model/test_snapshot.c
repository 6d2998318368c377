/* SPDX-License-Identifier: Apache-2.0 */
/* What is looked up is found, what is not there is not; and all that a snapshot owns goes with it. */
#include <stdlib.h>
#include <string.h>

#include "../cm.h"
#include "base/mem.h"
#include "model/snapshot.h"

static void files(void **state)
{
	struct snapshot s = { 0 };

	(void)state;
	assert_null(snapshot_file(&s, 1));
	for (uint32_t n = 1; n <= 9; n++) {     /* ids 3, 6, 9 ...: any number of them, even and odd */
		vec_add(&s.files)->id = 3 * n;
		for (uint32_t id = 0; id <= 3 * n + 2; id++) {
			const struct file *f = snapshot_file(&s, id);

			if (id % 3 == 0 && id > 0)
				assert_ptr_equal(f, &s.files.at[id / 3 - 1]);
			else
				assert_null(f);
		}
	}
	vec_add(&s.files)->id = UINT32_MAX;
	assert_ptr_equal(snapshot_file(&s, UINT32_MAX), &s.files.at[9]);
	assert_null(snapshot_file(&s, UINT32_MAX - 1));
	snapshot_free(&s);
}

static void others(void **state)
{
	struct snapshot s = { 0 };

	(void)state;
	assert_null(snapshot_task(&s, 7));
	vec_add(&s.tasks)->pid = 7;
	vec_add(&s.tasks)->pid = 9;
	assert_ptr_equal(snapshot_task(&s, 9), &s.tasks.at[1]);
	assert_null(snapshot_task(&s, 8));
	*vec_add(&s.pipes) = (struct pipe){ .id = 4 };
	*vec_add(&s.pipes) = (struct pipe){ .id = 4, .fifo = true };
	assert_ptr_equal(snapshot_pipe(&s, 4, false), &s.pipes.at[0]);
	assert_ptr_equal(snapshot_pipe(&s, 4, true), &s.pipes.at[1]);
	assert_null(snapshot_pipe(&s, 5, true));
	vec_add(&s.ghosts)->id = 1;
	assert_ptr_equal(snapshot_ghost(&s, 1), &s.ghosts.at[0]);
	assert_null(snapshot_ghost(&s, 0));
	*vec_add(&s.shmems) = (struct shmem){ .id = 1, .dev = 5, .ino = 6 };
	*vec_add(&s.shmems) = (struct shmem){ .id = 2, .inode_id = 3, .dev = 5, .ino = 7 };
	assert_ptr_equal(snapshot_memfd(&s, 3), &s.shmems.at[1]);
	assert_null(snapshot_memfd(&s, 0));     /* an anonymous one is no memfd */
	assert_ptr_equal(snapshot_shmem(&s, 5, 6), &s.shmems.at[0]);
	assert_null(snapshot_shmem(&s, 6, 6));
	snapshot_free(&s);
}

static int dropped;

static void drop(void *state)
{
	dropped++;
	free(*(char **)state);
}

/* The leak checker tells what is left. */
static void everything_goes(void **state)
{
	struct snapshot s = { 0 };

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct task *t = vec_add(&s.tasks);
		struct thread *th = vec_add(&t->threads);
		struct file *f = vec_add(&s.files);
		struct pipe *p = vec_add(&s.pipes);
		struct ghost *g = vec_add(&s.ghosts);

		th->xsave = mem_new(100);
		vec_push(&th->affinity, 1);
		vec_push(&th->creds.groups, 1);
		vec_add(&th->pending);
		vec_add(&t->fds);
		vec_add(&t->timers);
		vec_add(&t->pending);
		vec_add(&t->mm.vmas);
		vec_push(&t->mm.auxv, 1);
		f->state = mem_new(8);
		if (i > 0) {
			f->drop = drop;
			*(char **)f->state = mem_str("owned");
		}
		p->data = mem_new(10);
		vec_push(&p->packets, 1);
		vec_push(&g->files, 1);
		vec_add(&s.packets)->bytes = mem_new(5);
		vec_add(&s.shmems)->name = mem_str("memfd");
	}
	snapshot_free(&s);
	assert_int_equal(dropped, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files),
		cmocka_unit_test(others),
		cmocka_unit_test(everything_goes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
