/* SPDX-License-Identifier: Apache-2.0 */
/* epoll: each target is the right file with the right events, whatever became of its number. */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc_fdinfo.h"
#include "lab.h"

#define AWAY 700        /* a number that nothing else has */

static void watch(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = { .events = events, .data.u64 = data };

	assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e), 0);
}

/* What is ready: the data of the only event, or 0. */
static uint64_t ready(int ep)
{
	struct epoll_event e[8];
	int n = epoll_wait(ep, e, 8, 0);

	assert_in_range(n, 0, 1);
	return n == 1 ? e[0].data.u64 : 0;
}

/* Of the target with that data, as fdinfo shows them. */
static uint32_t events_of(int ep, uint64_t data)
{
	char text[1024];
	const char *at = text;
	struct fdinfo_line line;
	uint64_t is, events = 0;
	struct err err;

	assert_true(proc_fdinfo_text(getpid(), ep, text, sizeof(text), &err) > 0);
	while (fdinfo_next(&at, "tfd:", &line)) {
		assert_int_equal(fdinfo_line_u64(&line, "data", 16, &is, &err), 0);
		if (is == data)
			assert_int_equal(fdinfo_line_u64(&line, "events", 16, &events, &err), 0);
	}
	return (uint32_t)events;
}

static void count(int fd, uint64_t n)
{
	assert_int_equal(write(fd, &n, sizeof(n)), sizeof(n));
}

static void cycle(struct lab *lab)
{
	lab_save_and_load(lab);
	lab_make(lab);
}

static void targets_come_back(void **state)
{
	struct lab *lab = *state;
	own_fd ep = epoll_create1(0), a = eventfd(0, 0), b = eventfd(0, 0);

	watch(ep, a, EPOLLIN, 0xaaaabbbbccccdddd);
	watch(ep, b, EPOLLIN | EPOLLET | EPOLLRDHUP | EPOLLPRI, 2);
	lab_see(lab, ep);       /* 1: before its targets */
	lab_see(lab, a);        /* 2 */
	lab_see(lab, b);        /* 3 */
	cycle(lab);
	lab_equal(snapshot_file(&lab->seen, 1), snapshot_file(&lab->back, 1));
	own_message FileEntry *rec = lab_record(snapshot_file(&lab->back, 1));

	assert_int_equal(rec->epfd->n_tfd, 2);
	assert_int_equal(rec->epfd->tfd[0]->file_id + rec->epfd->tfd[1]->file_id, 5);
	assert_true(ready(lab_fd(lab, 1)) == 0);
	count(lab_fd(lab, 2), 1);
	assert_true(ready(lab_fd(lab, 1)) == 0xaaaabbbbccccdddd);
	count(lab_fd(lab, 3), 1);
	uint64_t n;

	assert_int_equal(read(lab_fd(lab, 2), &n, sizeof(n)), sizeof(n));
	assert_true(ready(lab_fd(lab, 1)) == 2);
	assert_true(ready(lab_fd(lab, 1)) == 0);        /* an edge */
	/* the numbers that attach used are what they were before */
	count(a, 5);
	assert_true(ready(ep) == 0xaaaabbbbccccdddd);
}

/* The program can still change a target by the number it knows it under. */
static void numbers_stay(void **state)
{
	struct lab *lab = *state;
	own_fd ep = epoll_create1(0), a = eventfd(1, 0);
	struct epoll_event e = { .events = EPOLLOUT, .data.u64 = 9 };

	watch(ep, a, EPOLLIN, 1);
	lab_see(lab, a);
	lab_see(lab, ep);
	cycle(lab);
	int back = lab_fd(lab, 2);

	assert_int_equal(dup2(lab_fd(lab, 1), a), a);
	assert_int_equal(epoll_ctl(back, EPOLL_CTL_MOD, a, &e), 0);
	assert_true(ready(back) == 9);
	assert_int_equal(epoll_ctl(back, EPOLL_CTL_DEL, a, NULL), 0);
	assert_true(ready(back) == 0);
}

/* The number was closed, or has another file now, which is a target as well: the files live on elsewhere. */
static void a_target_without_its_number_is_found(void **state)
{
	struct lab *lab = *state;
	own_fd ep = epoll_create1(0), a = eventfd(0, 0), b = eventfd(0, 0), c = eventfd(0, 0);

	assert_int_equal(dup2(a, AWAY), AWAY);
	watch(ep, AWAY, EPOLLIN, 1);
	assert_int_equal(dup2(b, AWAY), AWAY);
	watch(ep, AWAY, EPOLLIN, 2);
	assert_int_equal(dup2(c, AWAY), AWAY);
	watch(ep, AWAY, EPOLLIN, 3);
	lab_see(lab, c);                /* 1 */
	lab_see(lab, b);                /* 2 */
	lab_see(lab, a);                /* 3 */
	vec_push(&lab->seen.tasks.at[0].fds, ((struct fd_slot){ .fd = AWAY, .file = 1 }));
	lab_see(lab, ep);               /* 4 */
	cycle(lab);
	close(AWAY);
	int back = lab_fd(lab, 4);

	for (uint32_t id = 1; id <= 3; id++) {
		uint64_t n;

		count(lab_fd(lab, id), 1);
		assert_int_equal(ready(back), 4 - id);
		assert_int_equal(read(lab_fd(lab, id), &n, sizeof(n)), sizeof(n));
	}
}

/* A child keeps it open; the tree that is seen does not have it. */
static void a_target_outside_is_refused(void **state)
{
	struct lab *lab = *state;
	own_fd ep = epoll_create1(0), a = eventfd(0, EFD_CLOEXEC), other = eventfd(0, 0);
	int hold[2];

	assert_int_equal(pipe2(hold, O_CLOEXEC), 0);
	watch(ep, a, EPOLLIN, 1);
	pid_t pid = fork();

	if (pid == 0) {
		char c;

		close(hold[1]);
		_exit(read(hold[0], &c, 1) != 0);
	}
	close(hold[0]);
	assert_int_equal(dup2(other, a), a);
	lab_see(lab, a);
	struct file *f = lab_see(lab, ep);

	assert_int_equal(f->type->resolve(f, &lab->seen, &lab->err), -EOPNOTSUPP);
	close(hold[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void an_epoll_in_an_epoll_works(void **state)
{
	struct lab *lab = *state;
	own_fd outer = epoll_create1(0), inner = epoll_create1(0), a = eventfd(0, 0);

	watch(outer, inner, EPOLLIN, 1);
	watch(inner, a, EPOLLIN, 2);
	lab_see(lab, outer);
	lab_see(lab, inner);
	lab_see(lab, a);
	cycle(lab);
	assert_true(ready(lab_fd(lab, 1)) == 0);
	count(lab_fd(lab, 3), 1);
	assert_true(ready(lab_fd(lab, 1)) == 1);
	assert_true(ready(lab_fd(lab, 2)) == 2);
}

static void what_has_fired_once_does_not_fire_again(void **state)
{
	struct lab *lab = *state;
	own_fd ep = epoll_create1(0), fired = eventfd(1, 0), armed = eventfd(0, 0);
	struct epoll_event e = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = 7 };

	watch(ep, fired, EPOLLIN | EPOLLONESHOT, 1);
	assert_true(ready(ep) == 1);
	watch(ep, armed, EPOLLIN | EPOLLONESHOT, 2);
	lab_see(lab, fired);
	lab_see(lab, armed);
	lab_see(lab, ep);
	cycle(lab);
	int back = lab_fd(lab, 3);

	assert_true(ready(back) == 0);
	/* the kernel's own words: what has fired waits for nothing at all */
	assert_int_equal(events_of(back, 1), EPOLLONESHOT);
	assert_int_equal(events_of(back, 2), EPOLLONESHOT | EPOLLIN | EPOLLERR | EPOLLHUP);
	count(lab_fd(lab, 2), 1);
	assert_true(ready(back) == 2);
	assert_true(ready(back) == 0);
	assert_int_equal(dup2(lab_fd(lab, 1), fired), fired);
	assert_int_equal(epoll_ctl(back, EPOLL_CTL_MOD, fired, &e), 0);
	assert_true(ready(back) == 7);
}

/* Nothing can be read from it: it waits for errors again, and says nothing before. */
static void what_has_fired_and_is_not_ready_is_quiet(void **state)
{
	struct lab *lab = *state;
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	own_fd ep = epoll_create1(0), reader = ends[0], writer = ends[1];

	assert_int_equal(write(writer, "x", 1), 1);
	watch(ep, reader, EPOLLIN | EPOLLONESHOT, 1);
	assert_true(ready(ep) == 1);
	assert_int_equal(read(reader, &ends, 1), 1);
	lab_see(lab, reader);
	lab_see(lab, writer);
	lab_see(lab, ep);
	cycle(lab);
	assert_int_equal(write(lab_fd(lab, 2), "x", 1), 1);
	assert_true(ready(lab_fd(lab, 3)) == 0);
}

/* The numbers of targets are those of what was made, epolls included: attach harms none. */
static void numbers_may_overlap_with_what_is_made(void **state)
{
	struct lab *lab = *state;
	own_fd ep = epoll_create1(0), a = eventfd(0, 0), b = eventfd(0, 0);

	watch(ep, a, EPOLLIN, 1);
	watch(ep, b, EPOLLIN, 2);
	lab_see(lab, a);
	lab_see(lab, b);
	lab_see(lab, ep);
	lab_save_and_load(lab);
	const struct file *f = snapshot_file(&lab->back, 3);
	own_fd x = eventfd(0, 0), y = eventfd(0, 0), z = epoll_create1(0);

	/* what is made for a lies where b was, what is made for b is elsewhere, and the new epoll where a was */
	assert_int_equal(dup2(x, b), b);
	assert_int_equal(dup2(z, a), a);
	const int made[] = { b, y, a };

	for (size_t i = 0; i < 3; i++)
		vec_push(&lab->maker.fds, made[i]);
	assert_int_equal(f->type->attach(f, &lab->maker, &lab->err), 0);
	lab->maker.fds.len = 0;         /* they are ours */
	count(b, 1);
	assert_true(ready(a) == 1);
	count(y, 1);
	assert_int_equal(epoll_wait(z, (struct epoll_event[4]){ 0 }, 4, 0), 2);
}

/* An image that names targets by number alone: what the tasks with that epoll have there. */
static void a_target_by_number_is_found(void **state)
{
	struct lab *lab = *state;
	own_fd ep = epoll_create1(0), a = eventfd(0, 0);

	watch(ep, a, EPOLLIN, 1);
	lab_see(lab, a);
	own_message FileEntry *event = lab_record(&lab->seen.files.at[0]);
	own_message FileEntry *rec = lab_record(lab_see(lab, ep));

	rec->epfd->tfd[0]->has_file_id = false;
	assert_int_equal(lab_try_load(lab, event), 0);
	assert_int_equal(lab_try_load(lab, rec), 0);
	/* this task has a file there, but not the epoll */
	struct task *task = vec_add(&lab->back.tasks);

	vec_push(&task->fds, ((struct fd_slot){ .fd = a, .file = 99 }));
	task = vec_add(&lab->back.tasks);
	for (size_t i = 0; i < 2; i++)
		vec_push(&task->fds, lab->seen.tasks.at[0].fds.at[i]);
	lab_make(lab);
	count(lab_fd(lab, 1), 1);
	assert_true(ready(lab_fd(lab, 2)) == 1);
}

static int attach(struct lab *lab, const FileEntry *rec, uint32_t id)
{
	const struct file *f;
	int fd = -1;

	((FileEntry *)rec)->id = id;
	assert_int_equal(lab_try_load(lab, rec), 0);
	f = snapshot_file(&lab->back, id);
	assert_int_equal(f->type->make(f, &lab->maker, &fd, &lab->err), 0);
	vec_push(&lab->maker.fds, fd);
	return f->type->attach(f, &lab->maker, &lab->err);
}

static void broken_records_are_refused(void **state)
{
	struct lab *lab = *state;
	own_fd ep = epoll_create1(0), a = eventfd(0, 0);

	watch(ep, a, EPOLLIN, 1);
	lab_see(lab, a);
	struct file *f = lab_see(lab, ep);

	assert_int_equal(f->type->resolve(f, &lab->seen, &lab->err), 0);
	own_message FileEntry *rec = lab_record(f);
	EventpollTfdEntry *t = rec->epfd->tfd[0];

	LAB_REFUSES(lab, rec, epfd, NULL);
	LAB_REFUSES(lab, rec, epfd->fown->signum, 65);
	LAB_REFUSES(lab, rec, epfd->tfd[0]->tfd, 1u << 31);
	t->file_id = 77;
	assert_int_equal(attach(lab, rec, 1), -EBADMSG);        /* no such file */
	t->has_file_id = false;
	assert_int_equal(attach(lab, rec, 2), -EBADMSG);        /* no such number */
	t->has_file_id = true;
	t->file_id = 3;
	assert_int_equal(attach(lab, rec, 3), -EINVAL);         /* itself */
	t->tfd = INT32_MAX;
	t->file_id = 1;
	assert_int_equal(attach(lab, rec, 4), -EBADF);          /* no number for a descriptor */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAB_TEST(targets_come_back),
		LAB_TEST(numbers_stay),
		LAB_TEST(a_target_without_its_number_is_found),
		LAB_TEST(a_target_outside_is_refused),
		LAB_TEST(an_epoll_in_an_epoll_works),
		LAB_TEST(what_has_fired_once_does_not_fire_again),
		LAB_TEST(what_has_fired_and_is_not_ready_is_quiet),
		LAB_TEST(numbers_may_overlap_with_what_is_made),
		LAB_TEST(a_target_by_number_is_found),
		LAB_TEST(broken_records_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
