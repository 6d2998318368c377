/* SPDX-License-Identifier: Apache-2.0 */
/* A snapshot goes into images and comes back the same; and goes into the same images again. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "engine/load.h"
#include "resource/resource.h"
#include "world.h"

#define ROUNDS 30

#define SAME(field) assert_int_equal(a->field, b->field)

static void same_mm(const struct mm *a, const struct mm *b)
{
	SAME(start_code), SAME(end_code), SAME(start_data), SAME(end_data), SAME(start_stack), SAME(start_brk), SAME(brk);
	SAME(arg_start), SAME(arg_end), SAME(env_start), SAME(env_end);
	SAME(exe_file), SAME(dumpable), SAME(thp_disabled), SAME(auxv.len), SAME(vmas.len);
	for (size_t i = 0; i < a->auxv.len; i++)
		SAME(auxv.at[i]);
	for (size_t i = 0; i < a->vmas.len; i++) {
		SAME(vmas.at[i].start), SAME(vmas.at[i].end), SAME(vmas.at[i].pgoff), SAME(vmas.at[i].prot);
		SAME(vmas.at[i].flags), SAME(vmas.at[i].status), SAME(vmas.at[i].object), SAME(vmas.at[i].madvise);
		SAME(vmas.at[i].account), SAME(vmas.at[i].lock_on_fault);
	}
}

static void same_whole_task(const struct task *a, const struct task *b)
{
	SAME(pid), SAME(ppid), SAME(pgid), SAME(sid), SAME(threads.len);
	for (size_t i = 0; i < a->threads.len; i++)
		SAME(threads.at[i].tid);
	if (a->state == TASK_ZOMBIE) {
		SAME(state), SAME(exit_code);
		assert_string_equal(a->threads.at[0].comm, b->threads.at[0].comm);
		return;
	}
	same_task(a, b);
	for (size_t i = 0; i < a->threads.len; i++)
		same_thread(&a->threads.at[i], &b->threads.at[i]);
	SAME(umask), SAME(files_id), SAME(cwd_file), SAME(root_file), SAME(fds.len);
	for (size_t i = 0; i < a->fds.len; i++)
		SAME(fds.at[i].fd), SAME(fds.at[i].file), SAME(fds.at[i].cloexec);
	same_mm(&a->mm, &b->mm);
}

static void same_files(const struct snapshot *a, const struct snapshot *b)
{
	SAME(files.len);
	for (size_t i = 0; i < a->files.len; i++) {
		SAME(files.at[i].id), SAME(files.at[i].flags), SAME(files.at[i].fown.pid);
		assert_ptr_equal(a->files.at[i].type, b->files.at[i].type);
		assert_true(b->files.at[i].used || !snapshot_file(a, a->files.at[i].id)->used);
	}
}

/* Who maps it most of all says how large it is. */
static void right_objects(const struct snapshot *s)
{
	uint64_t sizes[5] = { 0 };

	for (size_t i = 0; i < s->tasks.len; i++)
		for (size_t k = 0; k < s->tasks.at[i].mm.vmas.len; k++) {
			const struct vma *v = &s->tasks.at[i].mm.vmas.at[k];
			uint64_t size = v->pgoff + v->end - v->start;

			if (v->status & VMA_ANON_SHARED && size > sizes[v->object - 70])
				sizes[v->object - 70] = size;
		}
	for (size_t i = 0; i < s->shmems.len; i++) {
		assert_int_equal(s->shmems.at[i].size_bytes, sizes[s->shmems.at[i].id - 70]);
		sizes[s->shmems.at[i].id - 70] = 0;
	}
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(sizes[i], 0);
}

static void same_image(struct box *b, const char *x, const char *y, const char *image)
{
	own_free char *paths[2] = { mem_fmt("%s/%s/%s", b->dir, x, image), mem_fmt("%s/%s/%s", b->dir, y, image) };
	own_fd fd = open(paths[0], O_RDONLY), other = open(paths[1], O_RDONLY);
	uint8_t bytes[4096], more[4096];
	ssize_t n;

	if (fd < 0 || other < 0)
		fail_msg("%s is missing", image);
	while ((n = read(fd, bytes, sizeof(bytes))) > 0)
		if (read(other, more, sizeof(more)) != n || memcmp(bytes, more, (size_t)n) != 0)
			fail_msg("%s is another one", image);
	assert_int_equal(read(other, more, 1), 0);
	free(paths[1]);
}

static void same_images(struct box *b, const char *x, const char *y)
{
	own_free char *path = mem_fmt("%s/%s", b->dir, x);
	own_dir *dir = opendir(path);
	const struct dirent *e;

	while ((e = readdir(dir)))
		if (e->d_name[0] != '.')
			same_image(b, x, y, e->d_name);
}

static void there_and_back(void **state)
{
	uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : (uint64_t)time(NULL);
	struct box *b = *state;

	print_message("SEED=%llu\n", (unsigned long long)seed);
	for (uint64_t i = 0; i < ROUNDS; i++) {
		struct snapshot x, y = { 0 };

		random_seed(seed + (i << 32));
		world_make(&x, (unsigned int)i % 10);
		world_save(b, "x", &x);
		own_store *store = box_open(b, "x");
		OK(&b->err, load_snapshot(store, &y, &b->err));
		assert_int_equal(x.tasks.len, y.tasks.len);
		for (size_t k = 0; k < x.tasks.len; k++)
			same_whole_task(&x.tasks.at[k], &y.tasks.at[k]);
		same_files(&x, &y);
		right_objects(&y);
		world_save(b, "y", &y);
		same_images(b, "x", "y");
		same_images(b, "y", "x");
		snapshot_free(&x);
		snapshot_free(&y);
		box_teardown(state);
		box_setup(state);
		b = *state;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { BOX_TEST(there_and_back) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
