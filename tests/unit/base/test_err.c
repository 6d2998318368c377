/* SPDX-License-Identifier: Apache-2.0 */
/* An error is one sentence with its scope, whole or cut, and never looks like success. */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "../cm.h"
#include "base/log.h"

static void one_sentence(void **state)
{
	struct err err;

	(void)state;
	LOG_SCOPE("task %d", 12);
	LOG_SCOPE("fd %d", 7);
	assert_int_equal(err_set(&err, EBADMSG, "pid %d is there twice", 3), -EBADMSG);
	assert_int_equal(err.code, EBADMSG);
	assert_string_equal(err.text, "pid 3 is there twice");
	assert_string_equal(err.scope, "task 12 > fd 7");
	assert_string_equal(strrchr(err.file, '/'), "/test_err.c");
	assert_in_range(err.line, __LINE__ - 5, __LINE__ - 5);
}

static void errno_is_told(void **state)
{
	struct err err;

	(void)state;
	errno = EFAULT;
	assert_int_equal(err_sys(&err, "write %s", "counter"), -EFAULT);
	assert_int_equal(err.code, EFAULT);
	assert_string_equal(err.text, "write counter: Bad address");
	assert_string_equal(err.scope, "");
}

/* A call that did less than it was asked for leaves errno alone: that is a failure all the same. */
static void errno_zero(void **state)
{
	struct err err;

	(void)state;
	errno = 0;
	assert_int_equal(err_sys(&err, "write pages"), -EIO);
	assert_int_equal(err.code, EIO);
	errno = 0;
	assert_int_equal(err_set(&err, 0, "short"), -EIO);
}

static void old_text_is_gone(void **state)
{
	struct err err;

	(void)state;
	err_set(&err, EIO, "a long text that was there before");
	err_set(&err, EPERM, "no");
	assert_string_equal(err.text, "no");
	assert_int_equal(err.code, EPERM);
}

static void long_texts_are_cut(void **state)
{
	struct err err;
	char text[1000];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	LOG_SCOPE("%s", text);
	LOG_SCOPE("more");
	assert_int_equal(err_set(&err, EIO, "%s", text), -EIO);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	assert_int_equal(strlen(err.scope), sizeof(err.scope) - 1);
	errno = ENOSPC;
	assert_int_equal(err_sys(&err, "%s", text), -ENOSPC);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	/* what fits of errno's text is there */
	errno = ENOSPC;
	err_sys(&err, "%.*s", (int)sizeof(err.text) - 6, text);
	assert_string_equal(err.text + sizeof(err.text) - 6, ": No ");
}

static void *other_thread(void *ret_err)
{
	LOG_SCOPE("other");
	err_set(ret_err, EIO, "x");
	return NULL;
}

static void scopes_are_a_threads_own(void **state)
{
	struct err here, there;
	pthread_t t;

	(void)state;
	LOG_SCOPE("this");
	assert_int_equal(pthread_create(&t, NULL, other_thread, &there), 0);
	pthread_join(t, NULL);
	err_set(&here, EIO, "x");
	assert_string_equal(here.scope, "this");
	assert_string_equal(there.scope, "other");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_sentence),
		cmocka_unit_test(errno_is_told),
		cmocka_unit_test(errno_zero),
		cmocka_unit_test(old_text_is_gone),
		cmocka_unit_test(long_texts_are_cut),
		cmocka_unit_test(scopes_are_a_threads_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
