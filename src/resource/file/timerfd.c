/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timerfd - a timer that is read.
 *
 * Times are what is left, also those of absolute timers: the clocks are others
 * after a restore.  The kernel counts what a periodic timer missed only when
 * it is asked for the time left, and shows neither before: then we ask.
 *
 * Seen in:  fdinfo "clockid", "ticks", "settime flags" (octal), "it_value", "it_interval".
 * Made by:  timerfd_create(), timerfd_settime(), and TFD_IOC_SET_TICKS for expirations that nobody read.
 * Image:    file_entry.tfd.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc_fdinfo.h"
#include "resource/resource.h"

#define IOC_SET_TICKS _IOW('T', 0, uint64_t)
#define NSEC 1000000000u
#define SEC_MAX (INT64_MAX / NSEC)      /* where the kernel's own times end */
#define SETTIME_FLAGS (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)

extern const struct file_type timerfd_type;

struct span { uint64_t sec, nsec; };
struct timerfd {
	uint32_t clock, settime_flags;
	uint64_t ticks;
	struct span left, interval;     /* left 0: disarmed */
};

static bool timerfd_claims(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[timerfd]") == 0;
}

static bool is_zero(const struct span *s)
{
	return s->sec == 0 && s->nsec == 0;
}

static bool in_range(const struct span *s)
{
	return s->sec <= SEC_MAX && s->nsec < NSEC;
}

static int span_of(const char *text, const char *key, struct span *ret_span, struct err *err)
{
	struct fdinfo_line line;
	struct span s;

	if (!fdinfo_next(&text, key, &line) || sscanf(line.at, " (%" SCNu64 ", %" SCNu64 ")", &s.sec, &s.nsec) != 2)
		return err_set(err, EBADMSG, "fdinfo: '%s' is missing or not understood", key);
	*ret_span = s;
	return 0;
}

static int parse(const char *text, struct timerfd *ret, struct err *err)
{
	uint64_t clock, ticks, flags;
	struct timerfd t = { 0 };
	int r;

	r = fdinfo_u64(text, "clockid", 10, &clock, err);
	if (r == 0)
		r = fdinfo_u64(text, "ticks", 10, &ticks, err);
	if (r == 0)
		r = fdinfo_u64(text, "settime flags", 8, &flags, err);
	if (r == 0)
		r = span_of(text, "it_value:", &t.left, err);
	if (r == 0)
		r = span_of(text, "it_interval:", &t.interval, err);
	if (r != 0)
		return r;
	t.clock = (uint32_t)clock;
	t.ticks = ticks;
	t.settime_flags = (uint32_t)flags & SETTIME_FLAGS;
	*ret = t;
	return 0;
}

static int timerfd_see(const struct fd_view *v, void *state, struct err *err)
{
	struct timerfd t = { 0 };
	struct itimerspec now;
	char text[1024];
	int r;

	r = parse(v->info, &t, err);
	if (r == 0 && t.ticks > 0 && is_zero(&t.left) && !is_zero(&t.interval)) {
		if (timerfd_gettime(v->fd, &now) < 0)
			return err_sys(err, "ask for the time left");
		r = proc_fdinfo_text(getpid(), v->fd, text, sizeof(text), err);
		if (r >= 0)
			r = parse(text, &t, err);
	}
	if (r < 0)
		return r;
	*(struct timerfd *)state = t;
	return 0;
}

static void timerfd_save(const struct file *f, FileEntry *rec)
{
	const struct timerfd *t = f->state;
	TimerfdEntry *body = mem_new(sizeof(*body));

	timerfd_entry__init(body);
	body->id = f->id;
	body->flags = f->flags;
	body->fown = fown_save(&f->fown);
	body->clockid = t->clock;
	body->ticks = t->ticks;
	body->settime_flags = t->settime_flags;
	body->vsec = t->left.sec;
	body->vnsec = t->left.nsec;
	body->isec = t->interval.sec;
	body->insec = t->interval.nsec;
	rec->type = FD_TYPES__TIMERFD;
	rec->id = f->id;
	rec->tfd = body;
}

static bool is_clock(uint32_t clock)
{
	return clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC || clock == CLOCK_BOOTTIME ||
	       clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM;
}

static int timerfd_load(const FileEntry *rec, struct file *f, struct snapshot *s, struct err *err)
{
	const TimerfdEntry *body = rec->tfd;
	struct timerfd t;
	int r;

	(void)s;
	if (!body)
		return err_set(err, EBADMSG, "timerfd record has no body");
	t = (struct timerfd){
		.clock = body->clockid, .settime_flags = body->settime_flags, .ticks = body->ticks,
		.left = { body->vsec, body->vnsec }, .interval = { body->isec, body->insec },
	};
	if (!is_clock(t.clock) || (t.settime_flags & ~SETTIME_FLAGS))
		return err_set(err, EBADMSG, "timerfd has clock %u, flags %#x", t.clock, t.settime_flags);
	if (!in_range(&t.left) || !in_range(&t.interval))
		return err_set(err, EBADMSG, "timerfd times are out of range");
	r = fown_load(body->fown, &f->fown, err);
	if (r < 0)
		return r;
	/* seen by one who did not ask: it has expired and goes on */
	if (t.ticks > 0 && is_zero(&t.left))
		t.left = t.interval;
	f->flags = body->flags;
	*(struct timerfd *)f->state = t;
	return 0;
}

/* The clock that tells the time of a timer's clock: alarm clocks can't always be read. */
static clockid_t readable(uint32_t clock)
{
	if (clock == CLOCK_REALTIME_ALARM)
		return CLOCK_REALTIME;
	return clock == CLOCK_BOOTTIME_ALARM ? CLOCK_BOOTTIME : (clockid_t)clock;
}

static int timerfd_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	const struct timerfd *t = f->state;
	own_fd fd = timerfd_create((int)t->clock, TFD_CLOEXEC);
	struct span value = t->left;
	struct timespec now;

	(void)m;
	if (fd < 0)
		return err_sys(err, "create for clock %u", t->clock);
	if ((t->settime_flags & TFD_TIMER_ABSTIME) && !is_zero(&value)) {
		if (clock_gettime(readable(t->clock), &now) < 0)
			return err_sys(err, "read clock %u", t->clock);
		value.nsec += (uint64_t)now.tv_nsec;
		value.sec += (uint64_t)now.tv_sec + value.nsec / NSEC;
		value.nsec %= NSEC;
	}
	const struct itimerspec it = {
		.it_value = { (time_t)value.sec, (long)value.nsec },
		.it_interval = { (time_t)t->interval.sec, (long)t->interval.nsec },
	};

	if (timerfd_settime(fd, (int)t->settime_flags, &it, NULL) < 0)
		return err_sys(err, "set");
	if (t->ticks > 0 && ioctl(fd, IOC_SET_TICKS, &t->ticks) < 0)
		return err_sys(err, "set %" PRIu64 " expirations", t->ticks);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

const struct file_type timerfd_type = {
	.name = "timerfd",
	.record = FD_TYPES__TIMERFD,
	.state_size = sizeof(struct timerfd),
	.claims = timerfd_claims,
	.see = timerfd_see,
	.save = timerfd_save,
	.load = timerfd_load,
	.make = timerfd_make,
};
