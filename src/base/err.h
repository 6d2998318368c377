/* SPDX-License-Identifier: Apache-2.0 */
/*
 * err.h - why something failed, told once.
 *
 * A function that can fail says so in its signature: it returns int (0 or a
 * count on success, -errno on failure) and takes a `struct err *` last.  On
 * success *err is untouched; on failure it holds one sentence and the scope
 * (log.h) that was open when it happened.  Nobody below front/ prints errors:
 * they travel up and are printed once.
 *
 * Codes: the errno of the failed call; EBADMSG for hostile or broken input;
 * EOPNOTSUPP for what this program does not handle (yet).
 */
#pragma once
#include <stddef.h>

struct err {
	int code;               /* positive errno; 0: no error */
	const char *file;
	int line;
	char scope[200];        /* "restore > task 12 (nginx) > fd 7" */
	char text[360];         /* "eventfd: write counter: Bad address" */
};

/* So that compiler and analyzer know: who checks for < 0 has seen every failure. */
#define err_below_0(code) ({                    \
		int err_code_ = (code);         \
		if (err_code_ >= 0)             \
			__builtin_unreachable();\
		err_code_;                      \
	})

#define err_set(err, code, ...) err_below_0(err_set_at(err, code, __FILE__, __LINE__, __VA_ARGS__))
#define err_sys(err, ...)       err_below_0(err_sys_at(err, __FILE__, __LINE__, __VA_ARGS__))

/*
 * Both return -code, so that `return err_set(...)` is the whole error path.  A failure is never 0: where the code is
 * (a call did less than asked and left errno alone) it is EIO.
 */
int err_set_at(struct err *err, int code, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

/* As err_set with the code in errno; ": " and errno's text are appended. */
int err_sys_at(struct err *err, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
