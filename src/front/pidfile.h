/* SPDX-License-Identifier: Apache-2.0 */
/* pidfile.h - the file of --pidfile: decimal digits; an existing one is somebody else's. */
#pragma once
#include <sys/types.h>

#include "base/err.h"

/* Could it be made later?  EEXIST, or what is wrong with its directory. */
int pidfile_check(const char *path, struct err *err);
int pidfile_write(const char *path, pid_t pid, struct err *err);
