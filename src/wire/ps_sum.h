/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ps_sum.h - a checksum of all that a source has sent: messages and pages, in order.
 *
 * The protocol has none.  But its last message has room, which CRIU passes over:
 * where both ends are ferry, a byte that changed on the way is known there.  It
 * keeps nobody out who changes pages on purpose: that takes TLS.
 */
#pragma once
#include <stddef.h>

#include "wire/ps_protocol.h"

/* Of each page.  By any thread: it is most of the work. */
void ps_sum_pages(const void *bytes, size_t pages, uint64_t *ret_sums);

/* `sum` goes on with a message; with pages. */
uint64_t ps_sum_message(uint64_t sum, const struct ps_message *m);
uint64_t ps_sum_add(uint64_t sum, const uint64_t *page_sums, size_t pages);
