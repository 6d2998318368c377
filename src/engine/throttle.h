/* SPDX-License-Identifier: Apache-2.0 */
/*
 * throttle.h - a tree runs a part of the time only, so that it changes less memory than goes over the wire.
 *
 * A child of ferry freezes it and lets it go, again and again (freeze.h).  Only ptrace holds it, and the child dies with ferry:
 * whichever dies at whatever instant, the kernel lets the tasks go.  A limit of a control group would stay.  The child is served
 * first (urgent.h; it sleeps nearly always): it would else wait some milliseconds for a processor each time, which is more than
 * the tasks are to run.
 */
#pragma once
#include <sys/types.h>

#include "base/err.h"

#define THROTTLE_LEVELS 6u      /* level n: it runs one part of 2^n of the time */

struct throttle { pid_t pid; };         /* 0: nobody is slowed */

int throttle_begin(struct throttle *t, pid_t root, unsigned int level, struct err *err);
/* When it returns the tasks run, and nobody traces them. */
void throttle_end(struct throttle *t);
