/* SPDX-License-Identifier: Apache-2.0 */
/* cm.h - cmocka wants these four before its own header; and what every test of ours says the same way. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"

/* `call` succeeds (0 or a count), or the test fails with what the error says. */
#define OK(err, call) do {                                              \
		int ok_ = (call);                                       \
		if (ok_ < 0)                                            \
			fail_msg("%s: %s", (err)->scope, (err)->text);  \
	} while (0)

/* `call` fails with this errno, and its text has this word in it. */
#define FAILS(err, code_, word, call) do {                                              \
		int r_ = (call);                                                        \
		if (r_ != -(code_) || (err)->code != (code_) || !strstr((err)->text, word)) \
			fail_msg("%d instead of %d: %s (wanted: %s)", r_, -(code_),     \
				 r_ < 0 ? (err)->text : "success", word);               \
	} while (0)
