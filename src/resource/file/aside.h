/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aside.h - a piece of work that needs a place of its own, or must be finished once begun.
 *
 * It runs in a child that shares ferry's memory and descriptors, with a working
 * directory and a root of its own; ferry waits for it.  When ferry is killed in
 * between, the child lives on and finishes: what it has changed in a task's
 * socket for a moment, it puts back.
 */
#pragma once
#include "base/err.h"

/* Calls run(arg) there and returns what it returns, 0 or -errno; err is for what fails before that. */
int aside(int (*run)(void *arg), void *arg, struct err *err);
/* For run(): from here on its root and working directory are an empty file system that goes when it returns. */
int aside_empty_root(struct err *err);
