/* SPDX-License-Identifier: Apache-2.0 */
/*
 * putter.h - a thread that puts into a sink what another one receives: so the two work at the same time.
 *
 *	putter_begin()
 *	putter_use()     the sink of what follows; what was received before is put
 *	putter_room()    a place for some pages of a run and their sums, which the sink has placed then
 *	putter_settle()  all is put
 *	putter_end()     after a failure too
 *
 * For what comes in order and can't be asked for again (a connection): where it
 * can, the pump does it all.  A failure of a put is that of the next call.
 */
#pragma once
#include <pthread.h>

#include "page/page.h"

#define PUTTER_CHUNKS  4u
#define PUTTER_PARCELS 64u

struct putter_chunk {
	struct page_parcel parcels[PUTTER_PARCELS];
	size_t count;
	uint64_t pages, sums[PUMP_CHUNK];
	uint8_t *bytes;                 /* PUMP_CHUNK pages */
};

struct putter {
	struct page_sink *sink;         /* the receiver's */
	struct putter_chunk chunks[PUTTER_CHUNKS];
	uint64_t given, put;            /* chunks; the receiver fills the one behind those that it gave */
	pthread_mutex_t lock;
	pthread_cond_t news;
	pthread_t thread;
	bool quit;
	int failed;
	struct err why;
	char scope[200];
};

int putter_begin(struct putter *p, struct err *err);
int putter_use(struct putter *p, struct page_sink *sink, struct err *err);
/* At least one page, at most run->pages: bytes and sums of *ret_room are to be filled before the next call. */
int putter_room(struct putter *p, const struct page_run *run, const struct page_parcel **ret_room, struct err *err);
int putter_settle(struct putter *p, struct err *err);
void putter_end(struct putter *p);
