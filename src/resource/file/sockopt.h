/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sockopt.h - the options of a socket, of any family.
 *
 *	getsockopt --see--> struct sock_opts --save--> sk_opts_entry
 *	sk_opts_entry --load--> struct sock_opts --make--> setsockopt, where a new socket says something else
 *
 * Options that CRIU's record has no field for go into its repeated field
 * `extra`, which CRIU passes over; only those that are listed in sockopt.c are
 * believed when loaded.
 */
#pragma once
#include <linux/filter.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/time.h>

#include "base/err.h"
#include "base/vec.h"
#include "image/messages.h"

#define SOCK_OPTS_NAMED 18      /* options that are one number and have a field of their own */
#define SOCK_OPT_NONE   (-1)    /* this socket has no such option, or the record does not say */

struct sock_extra { int level, name, value; };

struct sock_opts {
	int64_t value[SOCK_OPTS_NAMED];                 /* in the order of the table in sockopt.c; SOCK_OPT_NONE */
	int64_t linger_s;                               /* SOCK_OPT_NONE: off */
	struct timeval send_timeout, receive_timeout;   /* 0: none */
	char device[IFNAMSIZ];                          /* "": any */
	VEC(struct sock_filter) filter;                 /* classic BPF */
	VEC(struct sock_extra) extra;
};

int sock_opts_see(int fd, struct sock_opts *ret_opts, struct err *err);
SkOptsEntry *sock_opts_save(const struct sock_opts *opts);
int sock_opts_load(const SkOptsEntry *rec, struct sock_opts *ret_opts, struct err *err);
int sock_opts_make(int fd, const struct sock_opts *opts, struct err *err);
void sock_opts_drop(struct sock_opts *opts);
bool sock_opts_reuse(const struct sock_opts *opts);     /* SO_REUSEADDR */

/* One number.  -ENOPROTOOPT: this socket has no such option. */
int sock_opt_get(int fd, int level, int name, int *ret_value);
/* Sets it where it is another; `what` is for the error. */
int sock_opt_set(int fd, int level, int name, int value, const char *what, struct err *err);
/* As much room to send as `bytes` and the kernel's own overhead may take. */
int sock_room(int fd, size_t bytes, struct err *err);
