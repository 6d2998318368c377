/* SPDX-License-Identifier: Apache-2.0 */
/*
 * converge.h - one more round, or the switch?
 *
 * A pure function from what the rounds showed and what is wanted.  Downtime is predicted as the time for what is dirty
 * now at the bandwidth seen, and the time that everything else in a switch takes.
 */
#pragma once
#include <stdint.h>

struct converge_round {
	uint64_t bytes;                 /* that were sent */
	uint64_t spent_us;              /* from the first byte until the target had put the last */
};

struct converge_goal {
	uint64_t max_downtime_us;
	unsigned int max_rounds;        /* 0: no limit */
	uint64_t max_time_us;           /* 0: no limit */
	uint64_t state_us;              /* what a switch takes beside the last pages */
	unsigned int patience;          /* that many rounds in a row have left as much as they sent: it is stuck; at least 1 */
};

enum converge_verdict {
	CONVERGE_AGAIN,
	CONVERGE_SWITCH,                /* the goal is met */
	CONVERGE_STUCK,                 /* it is not, and no round will change that, or may be made any more */
};

/*
 * rounds: all so far, at least one; spent_us: since the first began; dirty_bytes: what the next round would have to
 * send.  *ret_downtime_us: the prediction for a switch now.
 */
enum converge_verdict converge(const struct converge_round *rounds, unsigned int count, uint64_t spent_us,
			       uint64_t dirty_bytes, const struct converge_goal *goal, uint64_t *ret_downtime_us);
