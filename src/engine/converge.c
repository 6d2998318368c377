/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>

#include "engine/converge.h"

#define TRUST_BYTES 1048576u    /* what a round must have moved for its bandwidth to mean something */

/* Bytes a microsecond; of the last round that was long enough. */
static double bandwidth(const struct converge_round *rounds, unsigned int count)
{
	for (unsigned int i = count; i-- > 0;)
		if (rounds[i].bytes >= TRUST_BYTES && rounds[i].spent_us > 0)
			return (double)rounds[i].bytes / (double)rounds[i].spent_us;
	return rounds[0].spent_us > 0 && rounds[0].bytes > 0 ? (double)rounds[0].bytes / (double)rounds[0].spent_us : 1000;
}

/* The last ones all left as much as they sent, or nearly. */
static bool gets_no_better(const struct converge_round *rounds, unsigned int count, uint64_t left, unsigned int patience)
{
	unsigned int same = 0;

	for (unsigned int i = count; i-- > 0 && left * 10 >= rounds[i].bytes * 9; left = rounds[i].bytes)
		same++;
	return same >= patience;
}

enum converge_verdict converge(const struct converge_round *rounds, unsigned int count, uint64_t spent_us,
			       uint64_t dirty_bytes, const struct converge_goal *goal, uint64_t *ret_downtime_us)
{
	uint64_t last_us = (uint64_t)((double)dirty_bytes / bandwidth(rounds, count));

	*ret_downtime_us = goal->state_us + last_us;
	if (*ret_downtime_us <= goal->max_downtime_us)
		return CONVERGE_SWITCH;
	if ((goal->max_rounds && count >= goal->max_rounds) || (goal->max_time_us && spent_us >= goal->max_time_us) ||
	    goal->state_us > goal->max_downtime_us || gets_no_better(rounds, count, dirty_bytes, goal->patience))
		return CONVERGE_STUCK;
	return CONVERGE_AGAIN;
}
