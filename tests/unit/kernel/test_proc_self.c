/* SPDX-License-Identifier: Apache-2.0 */
/* The same parsers on what the kernel says of this very process. */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/own.h"
#include "kernel/proc.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/proc_map.h"
#include "kernel/proc_task.h"

#define ok(call) do { int ok_ = (call); if (ok_ < 0) fail_msg("%s: %s", #call, err.text); } while (0)

static void numbers(void **state)
{
	(void)state;
	assert_true(proc_number("/proc/sys/kernel/pid_max", "") >= (uint64_t)getpid());
	assert_true(proc_number("/proc/meminfo", "MemTotal:") > proc_number("/proc/meminfo", "MemFree:"));
	assert_int_equal(proc_number("/proc/meminfo", "no such line"), 0);
	assert_int_equal(proc_number("/proc/no such file", ""), 0);
}

static void oom_score_adj(void **state)
{
	struct err err;
	int was, now;

	(void)state;
	ok(proc_oom_score_adj(getpid(), &was, &err));
	ok(proc_set_oom_score_adj(getpid(), was + 1, &err));
	ok(proc_oom_score_adj(getpid(), &now, &err));
	assert_int_equal(now, was + 1);
	assert_int_equal(proc_set_oom_score_adj(getpid(), 1001, &err), -EINVAL);
}

static void stat_and_status(void **state)
{
	static const char name[16] = ") R 1\n((\\";
	struct proc_status status;
	struct proc_stat st;
	struct err err;
	char comm[16];

	(void)state;
	assert_int_equal(prctl(PR_SET_NAME, name), 0);
	ok(proc_stat(getpid(), 0, &st, &err));
	assert_int_equal(st.pid, getpid());
	assert_int_equal(st.ppid, getppid());
	assert_int_equal(st.sid, getsid(0));
	assert_int_equal(st.state, 'R');
	assert_true(st.arg_start < st.arg_end && st.start_stack && st.start_brk <= (uint64_t)sbrk(0));
	ok(proc_comm(getpid(), 0, comm, &err));
	assert_memory_equal(comm, name, sizeof(name));
	ok(proc_comm(getpid(), gettid(), comm, &err));
	assert_memory_equal(comm, name, sizeof(name));

	ok(proc_status(getpid(), gettid(), &status, &err));
	assert_int_equal(status.tgid, getpid());
	assert_int_equal(status.pid, gettid());
	assert_int_equal(status.uid[1], geteuid());
	assert_int_equal(status.groups.len, getgroups(0, NULL));
	assert_int_equal(status.threads, 1);
	assert_true(status.ns_levels >= 1 && status.ns_pid > 0 && !status.kthread);
	proc_status_free(&status);
	ok(proc_status(getpid(), 0, &status, &err));
	proc_status_free(&status);
}

static void maps_and_smaps(void **state)
{
	char path[] = "/tmp/ferry-map-line\nend-\\012-XXXXXX";
	own_fd fd = mkstemp(path);
	struct proc_maps maps = { 0 };
	struct proc_map *map;
	struct stat st;
	struct err err;
	char *at;

	(void)state;
	assert_true(fd >= 0 && ftruncate(fd, 8192) == 0 && fstat(fd, &st) == 0);
	at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 4096);
	assert_ptr_not_equal(at, MAP_FAILED);
	for (int round = 0; round < 2; round++)
		ok(proc_maps(getpid(), &maps, &err));
	map = proc_maps_find(&maps, (uint64_t)at);
	assert_non_null(map);
	assert_true(map->start == (uint64_t)at && map->end == map->start + 4096 && map->shared && map->prot == PROT_READ);
	assert_int_equal(map->pgoff_bytes, 4096);
	assert_int_equal(map->ino, st.st_ino);
	assert_int_equal(map->dev, st.st_dev);
	assert_string_equal(map->name, path);

	ok(proc_smaps_flags(getpid(), &maps, &err));
	map = proc_maps_find(&maps, (uint64_t)at);
	assert_true((map->vm_flags & (VMF_RD | VMF_MS | VMF_WR)) == (VMF_RD | VMF_MS));
	map = proc_maps_find(&maps, (uint64_t)&map);
	assert_string_equal(map->name, "[stack]");
	assert_true(map->vm_flags & VMF_GD);
	for (size_t i = 0; i < maps.len; i++)
		assert_false(maps.at[i].vm_flags & VMF_OTHER);
	proc_maps_free(&maps);
	munmap(at, 4096);
	unlink(path);
}

static void *wait_for_end(void *fd)
{
	char c;

	assert_int_equal(read(*(int *)fd, &c, 1), 0);
	return NULL;
}

static void threads_and_children(void **state)
{
	struct proc_ids ids;
	pthread_t thread;
	struct err err;
	int p[2];
	pid_t child;

	(void)state;
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	child = fork();
	if (child == 0) {
		close(p[1]);
		_exit(read(p[0], &child, 1) != 0);
	}
	assert_int_equal(pthread_create(&thread, NULL, wait_for_end, &p[0]), 0);
	ok(proc_threads(getpid(), &ids, &err));
	assert_int_equal(ids.len, 2);
	assert_int_equal(ids.at[0], getpid());
	vec_free(&ids);
	ok(proc_children(getpid(), &ids, &err));
	assert_int_equal(ids.len, 1);
	assert_int_equal(ids.at[0], child);
	vec_free(&ids);
	ok(proc_pids(&ids, &err));
	assert_true(ids.len >= 2);
	vec_free(&ids);
	close(p[1]);
	pthread_join(thread, NULL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	close(p[0]);
	assert_int_equal(proc_children(child, &ids, &err), -ESRCH);
	assert_int_equal(proc_open(child, &p[0], &err), -ESRCH);
}

static void descriptors(void **state)
{
	own_fd fd = eventfd(0x12345, EFD_CLOEXEC);
	char buf[512], small[16];
	struct proc_ids fds;
	bool found = false;
	struct err err;
	uint64_t v;

	(void)state;
	ok(proc_fds(getpid(), &fds, &err));
	for (size_t i = 0; i < fds.len; i++) {
		found |= fds.at[i] == fd;
		assert_true(i == 0 || fds.at[i] > fds.at[i - 1]);
	}
	assert_true(found);
	vec_free(&fds);
	ok(proc_fdinfo_text(getpid(), fd, buf, sizeof(buf), &err));
	ok(fdinfo_u64(buf, "eventfd-count", 16, &v, &err));
	assert_int_equal(v, 0x12345);
	assert_int_equal(proc_fdinfo_text(getpid(), fd, small, sizeof(small), &err), -E2BIG);
	assert_int_equal(proc_fdinfo_text(getpid(), 123456, buf, sizeof(buf), &err), -ENOENT);
	snprintf(small, sizeof(small), "fd/%d", fd);
	ok(proc_link(getpid(), small, buf, sizeof(buf), &err));
	assert_string_equal(buf, "anon_inode:[eventfd]");
	assert_int_equal(proc_link(getpid(), small, buf, 5, &err), -ENAMETOOLONG);
}

static void small_values(void **state)
{
	struct rlimit64 limits[PROC_LIMITS], want;
	uint64_t auxv[128];
	uint32_t value;
	struct stat st;
	struct err err;
	dev_t dev;
	ino_t ino;
	int n, score;

	(void)state;
	n = proc_auxv(getpid(), auxv, ARRAY_LEN(auxv), &err);
	assert_true(n > 2 && n % 2 == 0 && auxv[n - 2] == AT_NULL);
	for (int i = 0; i < n - 2; i += 2)
		if (auxv[i] != AT_HWCAP)        /* glibc changes its copy */
			assert_true(getauxval(auxv[i]) == auxv[i + 1]);
	assert_int_equal(proc_auxv(getpid(), auxv, 2, &err), -E2BIG);
	ok(proc_personality(getpid(), &value, &err));
	assert_int_equal(value, personality(0xffffffff));
	ok(proc_oom_score_adj(getpid(), &score, &err));
	assert_true(score >= -1000 && score <= 1000);
	ok(proc_ns_id(getpid(), "net", &dev, &ino, &err));
	assert_int_equal(stat("/proc/self/ns/net", &st), 0);
	assert_true(dev == st.st_dev && ino == st.st_ino);
	ok(proc_limits(getpid(), limits, &err));
	for (int i = 0; i < (int)PROC_LIMITS; i++) {
		assert_int_equal(getrlimit64(i, &want), 0);
		assert_true(limits[i].rlim_cur == want.rlim_cur && limits[i].rlim_max == want.rlim_max);
	}
}

static void posix_timers(void **state)
{
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1, .sigev_value.sival_ptr = &ev };
	struct proc_timers timers;
	struct err err;
	timer_t a, b;

	(void)state;
	ev._sigev_un._tid = gettid();
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &ev, &a), 0);
	ev.sigev_notify = SIGEV_NONE;
	assert_int_equal(timer_create(CLOCK_REALTIME, &ev, &b), 0);
	ok(proc_timers(getpid(), &timers, &err));
	assert_int_equal(timers.len, 2);
	assert_true(timers.at[0].notify == SIGEV_THREAD_ID && timers.at[0].target == gettid());
	assert_true(timers.at[0].sigval == (uint64_t)&ev && timers.at[0].signal == SIGUSR1);
	assert_true(timers.at[0].clock == CLOCK_MONOTONIC && timers.at[1].clock == CLOCK_REALTIME);
	assert_true(timers.at[1].notify == SIGEV_NONE && timers.at[1].id == timers.at[0].id + 1);
	vec_free(&timers);
	timer_delete(a);
	timer_delete(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers), cmocka_unit_test(oom_score_adj), cmocka_unit_test(stat_and_status),
		cmocka_unit_test(maps_and_smaps), cmocka_unit_test(threads_and_children),
		cmocka_unit_test(descriptors), cmocka_unit_test(small_values), cmocka_unit_test(posix_timers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
