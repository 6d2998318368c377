/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.h - in which order the tasks of a tree are made again, and with them their memory.
 *
 * make_tree.c makes them; who sends memory to somebody who makes tasks as it comes (stream_out.h) sends it in this order.
 */
#pragma once
#include "base/vec.h"
#include "model/snapshot.h"

/* Which of its parent's times a child is cloned in. */
enum when { BEFORE_SETSID, AFTER_SETSID, BY_OTHER };

/* born_sid: the session that the parent was made in. */
enum when when_to_clone(const struct task *t, const struct task *parent, pid_t born_sid);

struct task_order { size_t *at; size_t len, cap; };     /* a VEC of indices in snapshot->tasks; the caller frees it */

void tree_order(const struct snapshot *s, struct task_order *ret);
