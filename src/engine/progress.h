/* SPDX-License-Identifier: Apache-2.0 */
/* progress.h - whoever waits is told how far the memory is. */
#pragma once
#include <stdint.h>

/* Called often (every few MiB), from any thread, one at a time; must be quick. */
struct progress {
	void (*report)(void *arg, uint64_t pages_done, uint64_t pages_total);
	void *arg;
};
