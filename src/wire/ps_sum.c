/* SPDX-License-Identifier: Apache-2.0 */
#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>    /* XXH3_64bits() takes what this CPU has */
#endif

#include "wire/ps_sum.h"

void ps_sum_pages(const void *bytes, size_t pages, uint64_t *ret_sums)
{
	for (size_t i = 0; i < pages; i++)
		ret_sums[i] = XXH3_64bits((const uint8_t *)bytes + i * PS_PAGE_BYTES, PS_PAGE_BYTES);
}

uint64_t ps_sum_message(uint64_t sum, const struct ps_message *m)
{
	uint8_t bytes[PS_HEADER_BYTES];

	ps_encode(m, bytes);
	return XXH3_64bits_withSeed(bytes, sizeof(bytes), sum);
}

uint64_t ps_sum_add(uint64_t sum, const uint64_t *page_sums, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		sum = XXH3_64bits_withSeed(&page_sums[i], sizeof(page_sums[i]), sum);
	return sum;
}
