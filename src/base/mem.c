/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/vec.h"

void mem_out(void)
{
	static const char text[] = "ferry: Error: out of memory\n";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(1);               /* nobody to tell */
	_exit(1);
}

void *mem_new(size_t size)
{
	void *p = calloc(1, size ? size : 1);

	if (!p)
		mem_out();
	return p;
}

void *mem_dup(const void *from, size_t size)
{
	return size ? memcpy(mem_new(size), from, size) : mem_new(1);
}

char *mem_str(const char *s)
{
	return mem_dup(s, strlen(s) + 1);
}

char *mem_fmt(const char *fmt, ...)
{
	char *out;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&out, fmt, ap) < 0)
		mem_out();
	va_end(ap);
	return out;
}

void *vec_grow_(void **at, size_t *len, size_t *cap, size_t size)
{
	void *slot;

	if (*len == *cap) {
		*cap = *cap ? *cap * 2 : 8;
		*at = reallocarray(*at, *cap, size);
		if (!*at)
			mem_out();
	}
	slot = (char *)*at + *len * size;
	(*len)++;
	return memset(slot, 0, size);
}

void vec_free_(void **at)
{
	free(*at);
	*at = NULL;
}
