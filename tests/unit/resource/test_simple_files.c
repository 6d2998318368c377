/* SPDX-License-Identifier: Apache-2.0 */
/* eventfd, timerfd, signalfd: what one is, comes back; who is what, is clear; broken records are refused. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/own.h"
#include "lab.h"

#define IOC_SET_TICKS _IOW('T', 0, uint64_t)

extern const struct file_type eventfd_type, timerfd_type, signalfd_type, eventpoll_type, pipe_type;

static void every_file_has_one_kind(void **state)
{
	own_fd e = eventfd(0, 0), t = timerfd_create(CLOCK_MONOTONIC, 0), p = epoll_create1(0);
	sigset_t none;
	int ends[2];

	sigemptyset(&none);
	assert_int_equal(pipe(ends), 0);
	own_fd s = signalfd(-1, &none, 0), reader = ends[0], writer = ends[1];

	assert_ptr_equal(lab_claimed_by(*state, e), &eventfd_type);
	assert_ptr_equal(lab_claimed_by(*state, t), &timerfd_type);
	assert_ptr_equal(lab_claimed_by(*state, s), &signalfd_type);
	assert_ptr_equal(lab_claimed_by(*state, p), &eventpoll_type);
	assert_ptr_equal(lab_claimed_by(*state, reader), &pipe_type);
	assert_ptr_equal(lab_claimed_by(*state, writer), &pipe_type);
}

static void what_has_no_kind_yet_is_claimed_by_none(void **state)
{
	own_fd p = open("/dev/ptmx", O_RDWR | O_NOCTTY);

	assert_null(lab_claimed_by(*state, p));
}

/* Sees fd, saves, loads, makes; returns the new descriptor, which is looked at again and must be the same. */
static int cycle(struct lab *lab, int fd, bool exactly)
{
	struct file *f = lab_see(lab, fd);
	uint32_t id = f->id;

	f->fown = (struct fown){ .uid = 1, .euid = 2, .signal = SIGRTMIN, .pid_type = 1, .pid = 42 };
	lab_save_and_load(lab);
	f = snapshot_file(&lab->seen, id);
	lab_equal(f, snapshot_file(&lab->back, id));
	lab_make(lab);
	if (exactly)
		lab_is(lab, lab_fd(lab, id), f);
	return lab_fd(lab, id);
}

static void an_eventfd_keeps_64_bits(void **state)
{
	const uint64_t count = UINT64_MAX - 1;
	uint64_t got = 0;
	own_fd fd = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(write(fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(read(cycle(*state, fd, true), &got, sizeof(got)), sizeof(got));
	assert_true(got == count);
}

static void a_semaphore_stays_one(void **state)
{
	own_fd fd = eventfd(3, EFD_SEMAPHORE);
	uint64_t got = 0;
	int back = cycle(*state, fd, true);

	for (int i = 0; i < 3; i++) {
		assert_int_equal(read(back, &got, sizeof(got)), sizeof(got));
		assert_int_equal(got, 1);
	}
	assert_int_equal(poll(&(struct pollfd){ back, POLLIN, 0 }, 1, 0), 0);
}

static void a_signalfd_keeps_its_mask(void **state)
{
	sigset_t set;
	uint64_t bits = 1 | 1ull << 63 | 3ull << 31;    /* 32 and 33, that libc hides, too */

	sigemptyset(&set);
	memcpy(&set, &bits, sizeof(bits));
	own_fd fd = signalfd(-1, &set, SFD_NONBLOCK);

	cycle(*state, fd, true);
}

static void set(int fd, int flags, struct timespec value, struct timespec interval)
{
	const struct itimerspec it = { interval, value };

	assert_int_equal(timerfd_settime(fd, flags, &it, NULL), 0);
}

static void a_disarmed_timer_stays_so(void **state)
{
	own_fd fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK);

	set(fd, 0, (struct timespec){ 0 }, (struct timespec){ 5, 6 });
	cycle(*state, fd, true);
}

static void a_timer_goes_on_with_what_is_left(void **state)
{
	struct itimerspec was, is;
	own_fd fd = timerfd_create(CLOCK_MONOTONIC, 0);

	set(fd, 0, (struct timespec){ 1000, 999999999 }, (struct timespec){ 7, 8 });
	int back = cycle(*state, fd, false);

	assert_int_equal(timerfd_gettime(fd, &was), 0);
	assert_int_equal(timerfd_gettime(back, &is), 0);
	assert_in_range(is.it_value.tv_sec - was.it_value.tv_sec, 0, 60);
	assert_memory_equal(&is.it_interval, &was.it_interval, sizeof(is.it_interval));
}

static void an_absolute_timer_keeps_its_flags(void **state)
{
	struct timespec now;
	struct itimerspec is;
	own_fd fd = timerfd_create(CLOCK_REALTIME, 0);

	clock_gettime(CLOCK_REALTIME, &now);
	now.tv_sec += 1000;
	set(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, now, (struct timespec){ 0 });
	int back = cycle(*state, fd, false);
	own_message FileEntry *rec = lab_record(snapshot_file(&((struct lab *)*state)->back, 1));

	assert_int_equal(rec->tfd->settime_flags, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET);
	assert_int_equal(timerfd_gettime(back, &is), 0);
	assert_in_range(is.it_value.tv_sec, 900, 1000);
}

static void a_timer_of_infinite_time_is_no_error(void **state)
{
	own_fd fd = timerfd_create(CLOCK_MONOTONIC, 0), abs = timerfd_create(CLOCK_REALTIME, 0);

	set(fd, 0, (struct timespec){ INT64_MAX, 0 }, (struct timespec){ INT64_MAX, 0 });
	set(abs, TFD_TIMER_ABSTIME, (struct timespec){ INT64_MAX, 0 }, (struct timespec){ 0 });
	lab_see(*state, abs);
	cycle(*state, fd, false);
}

static void expirations_that_nobody_read_are_kept(void **state)
{
	uint64_t ticks = 77, got;
	own_fd fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);

	assert_int_equal(ioctl(fd, IOC_SET_TICKS, &ticks), 0);
	assert_int_equal(read(cycle(*state, fd, true), &got, sizeof(got)), sizeof(got));
	assert_int_equal(got, 77);
}

/* Nobody asked it for a while: the kernel counts one expiration and no time left until somebody does. */
static void a_periodic_timer_that_was_missed_goes_on(void **state)
{
	struct itimerspec is;
	own_fd fd = timerfd_create(CLOCK_MONOTONIC, 0);

	set(fd, 0, (struct timespec){ 0, 1 }, (struct timespec){ 100, 0 });
	assert_int_equal(poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 10000), 1);
	int back = cycle(*state, fd, false);
	uint64_t got;

	assert_int_equal(timerfd_gettime(back, &is), 0);
	assert_in_range(is.it_value.tv_sec, 40, 100);
	assert_int_equal(read(back, &got, sizeof(got)), sizeof(got));
	assert_int_equal(got, 1);
}

/* The same as a program that does not ask writes it. */
static void a_missed_timer_of_an_old_image_is_armed(void **state)
{
	struct lab *lab = *state;
	own_fd fd = timerfd_create(CLOCK_MONOTONIC, 0);
	own_message FileEntry *rec = lab_record(lab_see(lab, fd));
	struct itimerspec is;

	rec->tfd->ticks = 1;
	rec->tfd->isec = 100;
	assert_int_equal(lab_try_load(lab, rec), 0);
	lab_make(lab);
	assert_int_equal(timerfd_gettime(lab_fd(lab, 1), &is), 0);
	assert_in_range(is.it_value.tv_sec, 40, 100);
}

static void broken_records_are_refused(void **state)
{
	struct lab *lab = *state;
	own_fd e = eventfd(0, 0), t = timerfd_create(CLOCK_MONOTONIC, 0);
	sigset_t none;

	sigemptyset(&none);
	own_fd s = signalfd(-1, &none, 0);
	own_message FileEntry *event = lab_record(lab_see(lab, e)), *timer = lab_record(lab_see(lab, t)),
			       *signal = lab_record(lab_see(lab, s));

	LAB_REFUSES(lab, event, efd, NULL);
	LAB_REFUSES(lab, event, efd->counter, UINT64_MAX);
	LAB_REFUSES(lab, event, efd->fown->signum, 65);
	LAB_REFUSES(lab, signal, sgfd, NULL);
	LAB_REFUSES(lab, signal, sgfd->fown->pid_type, 3);
	LAB_REFUSES(lab, timer, tfd, NULL);
	LAB_REFUSES(lab, timer, tfd->fown->signum, UINT32_MAX);
	LAB_REFUSES(lab, timer, tfd->clockid, 2);
	LAB_REFUSES(lab, timer, tfd->settime_flags, 4);
	LAB_REFUSES(lab, timer, tfd->vnsec, 1000000000);
	LAB_REFUSES(lab, timer, tfd->insec, UINT64_MAX);
	LAB_REFUSES(lab, timer, tfd->vsec, UINT64_MAX);
	LAB_REFUSES(lab, timer, tfd->isec, 1ull << 63);
	assert_int_equal(lab_try_load(lab, event), 0);
	assert_int_equal(lab_try_load(lab, signal), 0);
	assert_int_equal(lab_try_load(lab, timer), 0);
}


int main(void)
{
	const struct CMUnitTest tests[] = {
		LAB_TEST(every_file_has_one_kind),
		LAB_TEST(what_has_no_kind_yet_is_claimed_by_none),
		LAB_TEST(an_eventfd_keeps_64_bits),
		LAB_TEST(a_semaphore_stays_one),
		LAB_TEST(a_signalfd_keeps_its_mask),
		LAB_TEST(a_disarmed_timer_stays_so),
		LAB_TEST(a_timer_goes_on_with_what_is_left),
		LAB_TEST(an_absolute_timer_keeps_its_flags),
		LAB_TEST(a_timer_of_infinite_time_is_no_error),
		LAB_TEST(expirations_that_nobody_read_are_kept),
		LAB_TEST(a_periodic_timer_that_was_missed_goes_on),
		LAB_TEST(a_missed_timer_of_an_old_image_is_armed),
		LAB_TEST(broken_records_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
