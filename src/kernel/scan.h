/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.h - strict reading of numbers and words from /proc text.
 *
 * Private to kernel/.  A cursor {at, end} walks over bytes that need no NUL and
 * may hold anything: every function checks the end, says false on what is not
 * understood (also a number that does not fit 64 bits), and then leaves the
 * cursor where it was.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct scan { const char *at, *end; };

static inline struct scan scan_of(const char *text, size_t len)
{
	return (struct scan){ .at = text, .end = text + len };
}

static inline unsigned int scan_digit(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned int)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned int)(c - 'a' + 10);
	if (c >= 'A' && c <= 'F')
		return (unsigned int)(c - 'A' + 10);
	return 99;
}

/* Digits of `base` (2 to 16), at least one; a "0x" is passed over in base 16. */
static inline bool scan_u64(struct scan *s, unsigned int base, uint64_t *ret_value)
{
	const char *at = s->at, *first;
	uint64_t v = 0;

	if (base == 16 && s->end - at > 2 && at[0] == '0' && at[1] == 'x')
		at += 2;
	for (first = at; at < s->end && scan_digit(*at) < base; at++)
		if (__builtin_mul_overflow(v, (uint64_t)base, &v) ||
		    __builtin_add_overflow(v, (uint64_t)scan_digit(*at), &v))
			return false;
	if (at == first)
		return false;
	s->at = at;
	*ret_value = v;
	return true;
}

/* As scan_u64 in base 10, with a sign; INT64_MIN to INT64_MAX. */
static inline bool scan_i64(struct scan *s, int64_t *ret_value)
{
	struct scan t = *s;
	bool minus = t.at < t.end && *t.at == '-';
	uint64_t v;

	t.at += minus;
	if (!scan_u64(&t, 10, &v) || v > (uint64_t)INT64_MAX + minus)
		return false;
	s->at = t.at;
	*ret_value = minus ? (int64_t)(0 - v) : (int64_t)v;
	return true;
}

static inline bool scan_char(struct scan *s, char c)
{
	if (s->at >= s->end || *s->at != c)
		return false;
	s->at++;
	return true;
}

static inline bool scan_text(struct scan *s, const char *text)
{
	size_t len = strlen(text);

	if ((size_t)(s->end - s->at) < len || memcmp(s->at, text, len) != 0)
		return false;
	s->at += len;
	return true;
}

static inline void scan_blanks(struct scan *s)
{
	while (s->at < s->end && (*s->at == ' ' || *s->at == '\t'))
		s->at++;
}

/* What goes up to the next line end, without it; false at the end of the text. */
static inline bool scan_line(struct scan *s, struct scan *ret_line)
{
	const char *nl;

	if (s->at >= s->end)
		return false;
	nl = memchr(s->at, '\n', (size_t)(s->end - s->at));
	*ret_line = (struct scan){ .at = s->at, .end = nl ? nl : s->end };
	s->at = nl ? nl + 1 : s->end;
	return true;
}
