/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/own.h"
#include "front/words.h"

const char *size_text(uint64_t bytes, char buf[static 16])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	size_t unit = 0;

	for (; value >= 1024 && unit + 1 < ARRAY_LEN(units); unit++)
		value /= 1024;
	snprintf(buf, 16, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return buf;
}

const char *count_text(uint64_t n, char buf[static 32])
{
	char digits[24];
	int len = snprintf(digits, sizeof(digits), "%" PRIu64, n);
	char *to = buf;

	for (int i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0)
			*to++ = ',';
		*to++ = digits[i];
	}
	*to = '\0';
	return buf;
}

const char *time_text(uint64_t us, char buf[static 24])
{
	if (us < 1000)
		snprintf(buf, 24, "%" PRIu64 " us", us);
	else if (us < 1000000)
		snprintf(buf, 24, "%.1f ms", (double)us / 1e3);
	else
		snprintf(buf, 24, "%.2f s", (double)us / 1e6);
	return buf;
}

const char *things_text(uint64_t n, const char *thing, char buf[static 64])
{
	char count[32];

	snprintf(buf, 64, "%s %s%s", count_text(n, count), thing, n == 1 ? "" : "s");
	return buf;
}
