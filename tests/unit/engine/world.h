/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.h - a process tree that no kernel has seen, as a snapshot and as images.
 *
 *	world_make()    a snapshot of it, out of the seed that random_seed() got
 *	world_save()    its images, without checksums: as a CRIU's, so that they can be changed
 */
#pragma once
#include "box.h"
#include "model/snapshot.h"
#include "states.h"

/*
 * The same whatever the seed: task 1000 (threads 1000, 1001) is the root, 1010 its child, with a descriptor table and
 * memory of its own, 1020 a child of that, which shares its table; 1030 is a dead child of the root.  `more` tasks come
 * behind.  Files: 1 a program, 2 a directory, 3 an eventfd, then others.
 */
void world_make(struct snapshot *s, unsigned int more);
void world_save(struct box *b, const char *name, const struct snapshot *s);

enum { WORLD_ROOT = 1000, WORLD_CHILD = 1010, WORLD_GRANDCHILD = 1020, WORLD_DEAD = 1030 };
enum { WORLD_PROGRAM = 1, WORLD_DIRECTORY = 2, WORLD_EVENTFD = 3 };

/* Where the mappings of a task begin, in the order in which they are there: */
enum { MAP_TEXT, MAP_DATA, MAP_HEAP, MAP_SHM, MAP_FILE_SHARED, MAP_STACK_, MAP_OTHERS };
