/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "engine/keeper.h"
#include "kernel/proc_task.h"
#include "kernel/sys.h"

#define VERSION    2u
#define TASKS_MAX  0x10000u
#define FRAMES_MAX 0x1000000u    /* of a task: 8 TiB */

/* The keeper's descriptors. */
enum { TABLE_FD = 3, READY_FD, FIRST_UFFD };

/* The table as it lies in a memfd: a head, the tasks, and the frames of each. */
struct table_head {
	char magic[12];
	uint32_t version, kind, count;
	struct link_id since;
};

struct table_task {
	uint64_t start_ticks;
	int32_t pid, uffd;
	uint32_t unseen, frames;
};

static const char magic[12] = "ferry-keeper";

/* ---- the keeper itself ---- */

struct table { struct table_head head; struct table_task *tasks; };

static int read_table(int fd, struct table *ret_table, struct err *err)
{
	struct table_head head;
	struct table_task *tasks;
	size_t len;

	if (pread(fd, &head, sizeof(head), 0) != sizeof(head) || memcmp(head.magic, magic, sizeof(magic)) != 0)
		return err_set(err, EBADMSG, "its table is not one");
	if (head.version != VERSION || head.count > TASKS_MAX || head.kind > TRACKER_SOFT_DIRTY)
		return err_set(err, EBADMSG, "its table is another ferry's");
	len = head.count * sizeof(*tasks);
	tasks = mem_new(len + 1);
	if (pread(fd, tasks, len, sizeof(head)) != (ssize_t)len) {
		free(tasks);
		return err_set(err, EBADMSG, "its table is cut");
	}
	*ret_table = (struct table){ head, tasks };
	return 0;
}

/* Waits for the end of each; what watched it is closed, so that its memory goes. */
static void wait_for_all(const struct table *table, struct pollfd *polls)
{
	size_t left = 0;

	for (size_t i = 0; i < table->head.count; i++) {
		polls[i] = (struct pollfd){ .fd = -1, .events = POLLIN };
		if (sys_pidfd_open(table->tasks[i].pid, 0, &polls[i].fd, &(struct err){ 0 }) == 0)
			left++;
		else if (table->tasks[i].uffd >= 0)
			close(table->tasks[i].uffd);
	}
	close(READY_FD);
	while (left > 0 && (poll(polls, table->head.count, -1) >= 0 || errno == EINTR))
		for (size_t i = 0; i < table->head.count; i++) {
			if (polls[i].fd < 0 || !polls[i].revents)
				continue;
			close(polls[i].fd);
			polls[i].fd = -1;
			left--;
			if (table->tasks[i].uffd >= 0)
				close(table->tasks[i].uffd);
		}
}

int keeper_main(void)
{
	struct table table;
	own_free struct pollfd *polls = NULL;

	prctl(PR_SET_NAME, KEEPER_NAME);
	if (read_table(TABLE_FD, &table, &(struct err){ 0 }) < 0)
		return 1;
	polls = mem_new((table.head.count + 1) * sizeof(*polls));
	wait_for_all(&table, polls);
	free(table.tasks);
	return 0;
}

/* ---- starting one ---- */

static int write_all(int fd, const void *bytes, size_t len, struct err *err)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, (const char *)bytes + done, len - done);

		if (n <= 0)
			return err_sys(err, "write the keeper's table");
		done += (size_t)n;
	}
	return 0;
}

/* Without them all is compared. */
static uint32_t frames_kept(const struct kept_task *k)
{
	return k->frames.len <= FRAMES_MAX ? (uint32_t)k->frames.len : 0;
}

static int write_table(enum tracker_kind kind, const struct link_id *since, const struct kept_tasks *tasks, int *ret_fd,
		       struct err *err)
{
	struct table_head head = { .version = VERSION, .kind = kind, .count = (uint32_t)tasks->len, .since = *since };
	own_fd fd = memfd_create(KEEPER_NAME, MFD_CLOEXEC);
	int r;

	if (fd < 0)
		return err_sys(err, "memfd for the keeper");
	memcpy(head.magic, magic, sizeof(magic));
	r = write_all(fd, &head, sizeof(head), err);
	for (size_t i = 0; r == 0 && i < tasks->len; i++) {
		const struct kept_task *k = &tasks->at[i];
		struct table_task t = { .start_ticks = k->start_ticks, .pid = k->pid, .unseen = k->unseen, .frames = frames_kept(k),
					.uffd = k->uffd < 0 ? -1 : FIRST_UFFD + (int)i };

		r = write_all(fd, &t, sizeof(t), err);
	}
	for (size_t i = 0; r == 0 && i < tasks->len; i++)
		r = write_all(fd, tasks->at[i].frames.at, frames_kept(&tasks->at[i]) * sizeof(struct page_frame), err);
	if (r == 0)
		*ret_fd = TAKE_FD(fd);
	return r;
}

/* Puts the descriptors in their places; those that lie in the way of others were moved up before. */
static int place_fds(int table, int ready, const struct kept_tasks *tasks)
{
	int top = FIRST_UFFD + (int)tasks->len, null = open("/dev/null", O_RDWR);

	table = fcntl(table, F_DUPFD, top);
	ready = fcntl(ready, F_DUPFD, top);
	for (size_t i = 0; i < tasks->len; i++)
		if (tasks->at[i].uffd >= 0 && (tasks->at[i].uffd = fcntl(tasks->at[i].uffd, F_DUPFD, top)) < 0)
			return -1;
	if (table < 0 || ready < 0 || null < 0)
		return -1;
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
	if (dup2(table, TABLE_FD) < 0 || dup2(ready, READY_FD) < 0)
		return -1;
	for (size_t i = 0; i < tasks->len; i++) {
		if (tasks->at[i].uffd < 0)
			close(FIRST_UFFD + (int)i);
		else if (dup2(tasks->at[i].uffd, FIRST_UFFD + (int)i) < 0)
			return -1;
	}
	return (int)syscall(SYS_close_range, top, ~0u, 0);
}

/* In a child of ferry's: becomes the keeper, with nothing of ferry's but the descriptors. */
static void become_keeper(int table, int ready, const struct kept_tasks *tasks, char *const argv[])
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (setsid() >= 0 && chdir("/") == 0 && place_fds(table, ready, tasks) == 0)
		execve("/proc/self/exe", argv, (char *[]){ NULL });
	_exit(1);
}

/* Twice a fork: init is the keeper's parent, and nobody has to wait for it. */
static int spawn(int table, int ready, struct kept_tasks *tasks, struct err *err)
{
	char pid[16], name[20] = "";
	char *argv[] = { (char *)KEEPER_NAME, (char *)"of", pid, name, NULL };
	struct proc_stat stat;
	pid_t child;
	int status;

	snprintf(pid, sizeof(pid), "%d", tasks->at[0].pid);
	if (proc_stat(tasks->at[0].pid, 0, &stat, &(struct err){ 0 }) == 0)
		snprintf(name, sizeof(name), "(%s)", stat.comm);
	child = fork();
	if (child < 0)
		return err_sys(err, "fork");
	if (child == 0) {
		if (fork() == 0)
			become_keeper(table, ready, tasks, argv);
		_exit(0);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return 0;
}

/* It is ready when its end of the pipe is closed: by itself after exec, or by its death. */
static int wait_ready(int fd, pid_t task, struct err *err)
{
	struct keeper found;
	char byte;

	while (read(fd, &byte, 1) < 0 && errno == EINTR)
		;
	if (keeper_find(task, &found, err) <= 0)
		return err_set(err, ECHILD, "the keeper did not start");
	keeper_free(&found);
	return 0;
}

int keeper_start(enum tracker_kind kind, const struct link_id *since, const struct kept_tasks *tasks, struct err *err)
{
	own_fd table = -1, read_end = -1, write_end = -1;
	struct kept_tasks copy = { mem_dup(tasks->at, tasks->len * sizeof(*tasks->at)), tasks->len, tasks->len };
	int ends[2], r;

	if (pipe2(ends, O_CLOEXEC) < 0) {
		free(copy.at);
		return err_sys(err, "pipe to the keeper");
	}
	read_end = ends[0];
	write_end = ends[1];
	r = write_table(kind, since, tasks, &table, err);
	if (r == 0)
		r = spawn(table, write_end, &copy, err);
	free(copy.at);
	close(TAKE_FD(write_end));
	return r < 0 ? r : wait_ready(read_end, tasks->at[0].pid, err);
}

/* ---- finding one ---- */

void kept_tasks_free(struct kept_tasks *tasks)
{
	for (size_t i = 0; i < tasks->len; i++) {
		own_fd_drop(&tasks->at[i].uffd);
		vec_free(&tasks->at[i].frames);
	}
	vec_free(tasks);
}

void keeper_free(struct keeper *k)
{
	own_fd_drop(&k->pidfd);
	k->pidfd = -1;
	kept_tasks_free(&k->tasks);
}

static bool holds(const struct table *table, const pid_t *pids, size_t count)
{
	for (size_t i = 0; i < table->head.count; i++)
		for (size_t k = 0; k < count; k++)
			if (table->tasks[i].pid == pids[k])
				return true;
	return false;
}

/* *at goes forward.  Frames that can't be read are none. */
static void take_frames(int fd, off_t *at, uint32_t count, struct frames *ret_frames)
{
	const size_t len = (size_t)count * sizeof(struct page_frame);
	struct stat st;
	off_t from = *at;

	*at += (off_t)len;
	if (count == 0 || count > FRAMES_MAX || fstat(fd, &st) < 0 || *at > st.st_size)
		return;
	ret_frames->at = mem_new(len);
	ret_frames->cap = count;
	if (pread(fd, ret_frames->at, len, from) == (ssize_t)len)
		ret_frames->len = count;
}

static int take_tasks(const struct table *table, int fd, struct keeper *k, struct err *err)
{
	off_t frames_at = (off_t)(sizeof(table->head) + table->head.count * sizeof(*table->tasks));

	for (size_t i = 0; i < table->head.count; i++) {
		const struct table_task *t = &table->tasks[i];
		struct kept_task task = { t->pid, t->start_ticks, -1, t->unseen, { 0 } };
		struct err gone;

		/* it has closed that of a task that ended */
		if (t->uffd >= 0 && sys_pidfd_getfd(k->pidfd, t->uffd, &task.uffd, &gone) == -ESRCH) {
			*err = gone;
			return -ESRCH;
		}
		take_frames(fd, &frames_at, t->frames, &task.frames);
		vec_push(&k->tasks, task);
	}
	return 0;
}

/* 1: it is a keeper, and ours to use. */
static int look_at_one(pid_t keeper, int *ret_pidfd, int *ret_fd, struct table *ret_table)
{
	struct proc_status status = { 0 };
	own_fd pidfd = -1, fd = -1;
	struct err err;
	char comm[16];

	if (proc_comm(keeper, 0, comm, &err) < 0 || strcmp(comm, KEEPER_NAME) != 0 || proc_status(keeper, 0, &status, &err) < 0)
		return 0;
	proc_status_free(&status);
	if (status.uid[1] != geteuid() || sys_pidfd_open(keeper, 0, &pidfd, &err) < 0 ||
	    sys_pidfd_getfd(pidfd, TABLE_FD, &fd, &err) < 0 ||
	    fcntl(fd, F_GET_SEALS) < 0 ||       /* who knows what reading it would do: memory never makes us wait */
	    read_table(fd, ret_table, &err) < 0)
		return 0;
	*ret_pidfd = TAKE_FD(pidfd);
	*ret_fd = TAKE_FD(fd);
	return 1;
}

/* Takes what it has in place of what was found before; one that is ending is none. */
static void take_keeper(pid_t pid, int pidfd, int fd, const struct table *table, struct keeper *k)
{
	struct keeper found = { .pid = pid, .pidfd = pidfd, .kind = (enum tracker_kind)table->head.kind,
				.since = table->head.since };

	if (take_tasks(table, fd, &found, &(struct err){ 0 }) < 0) {
		keeper_free(&found);
		return;
	}
	keeper_free(k);
	*k = found;
}

/* The keeper of a tree that begins with this task, or else of one that it is a part of. */
int keeper_find(pid_t pid, struct keeper *ret_keeper, struct err *err)
{
	struct proc_ids pids = { 0 };
	bool is_root = false;
	int r = proc_pids(&pids, err);

	*ret_keeper = (struct keeper){ .pidfd = -1 };
	for (size_t i = 0; r >= 0 && !is_root && i < pids.len; i++) {
		struct table table = { 0 };
		own_fd pidfd = -1, fd = -1;

		if (look_at_one(pids.at[i], &pidfd, &fd, &table) == 0)
			continue;
		is_root = table.head.count > 0 && table.tasks[0].pid == pid;
		if (is_root || (ret_keeper->pidfd < 0 && holds(&table, &pid, 1)))
			take_keeper(pids.at[i], TAKE_FD(pidfd), fd, &table, ret_keeper);
		free(table.tasks);
	}
	vec_free(&pids);
	return r < 0 ? r : ret_keeper->pidfd >= 0;
}

bool keeper_lives(const struct keeper *k)
{
	return k->pidfd >= 0 && sys_poll_now(k->pidfd, POLLIN, &(struct err){ 0 }) == 0;
}

int keeper_end(struct keeper *k, struct err *err)
{
	struct pollfd poll_it = { .fd = k->pidfd, .events = POLLIN };

	if (k->pidfd < 0)
		return 0;
	if (sys_pidfd_send_signal(k->pidfd, SIGKILL, err) < 0 && err->code != ESRCH)
		return -err->code;
	while (poll(&poll_it, 1, -1) < 0 && errno == EINTR)
		;
	own_fd_drop(&k->pidfd);
	k->pidfd = -1;
	return 0;
}

int keeper_end_all(const pid_t *pids, size_t count, struct err *err)
{
	struct proc_ids all = { 0 };
	int r = proc_pids(&all, err);

	for (size_t i = 0; r >= 0 && i < all.len; i++) {
		struct keeper k = { .pid = all.at[i], .pidfd = -1 };
		struct table table = { 0 };
		own_fd fd = -1;

		if (look_at_one(all.at[i], &k.pidfd, &fd, &table) == 0)
			continue;
		if (holds(&table, pids, count))
			r = keeper_end(&k, err);
		keeper_free(&k);
		free(table.tasks);
	}
	vec_free(&all);
	return r < 0 ? r : 0;
}
