/* SPDX-License-Identifier: Apache-2.0 */
/* words.h - numbers as people read them; each returns buf. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* "512 B", "64.0 MiB" */
const char *size_text(uint64_t bytes, char buf[static 16]);

/* "16,384" */
const char *count_text(uint64_t n, char buf[static 32]);

/* "850 us", "12.3 ms", "4.21 s" */
const char *time_text(uint64_t us, char buf[static 24]);

/* "1 task", "2 tasks" */
const char *things_text(uint64_t n, const char *thing, char buf[static 64]);
