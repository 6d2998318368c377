/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sync.h - files that come along with a migration (--sync PATH), by rsync: once while the program runs, which is most of it, and
 * once while it stands still, which is what it wrote meanwhile.
 *
 * Goes where ferry went: through the same ssh, or, on this machine, into the root directory of who receives.
 */
#pragma once
#include <stdbool.h>

#include "engine/migrate.h"
#include "front/options.h"
#include "wire/transport.h"

struct sync { const char *path; char *to, *shell; };

/* EINVAL: there is no way to that destination. */
int sync_begin(const struct options *options, const char *where, const struct transport *t, struct sync *ret, struct err *err);
/* Of a struct sync; brings what is new there.  Gives up when nothing moves for half a minute. */
int sync_run(void *sync, const struct migrate_alive *alive, struct err *err);
void sync_free(struct sync *sync);
