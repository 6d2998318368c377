/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"

static void fill(struct err *err, int code, const char *file, int line, const char *fmt, va_list ap)
{
	*err = (struct err){ .code = code > 0 ? code : EIO, .file = file, .line = line };
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	log_scope_copy(err->scope, sizeof(err->scope));
}

int err_set_at(struct err *err, int code, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(err, code, file, line, fmt, ap);
	va_end(ap);
	return -err->code;
}

int err_sys_at(struct err *err, const char *file, int line, const char *fmt, ...)
{
	int code = errno;
	size_t used;
	va_list ap;

	va_start(ap, fmt);
	fill(err, code, file, line, fmt, ap);
	va_end(ap);
	used = strlen(err->text);
	snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(err->code));
	return -err->code;
}
