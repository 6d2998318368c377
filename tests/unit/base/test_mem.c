/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that can't fail, and variables that let go by themselves. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../cm.h"
#include "base/mem.h"
#include "base/own.h"

static void zeroed(void **state)
{
	(void)state;
	for (size_t size = 0; size < 3000; size += 100) {
		char *p = mem_new(size);

		assert_non_null(p);
		for (size_t i = 0; i < size; i++)
			assert_int_equal(p[i], 0);
		memset(p, 0xff, size);
		free(p);
	}
}

static void copies(void **state)
{
	own_free char *none = mem_dup(NULL, 0), *some = mem_dup("a\0b", 4), *s = mem_str(""), *f = mem_fmt("%d-%s", 7, "x");

	(void)state;
	assert_non_null(none);
	assert_memory_equal(some, "a\0b", 4);
	assert_string_equal(s, "");
	assert_string_equal(f, "7-x");
}

#ifdef __SANITIZE_ADDRESS__
static void no_memory(void **state)
{
	(void)state;
	skip();         /* the sanitizer has its own end for this */
}
#else
static void no_memory(void **state)
{
	volatile size_t too_much = SIZE_MAX / 2;
	const struct rlimit no_core = { 0 };
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &no_core);
		free(mem_new(too_much));
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);        /* a failure is no signal: callers rely on it */
}
#endif

static void fd_closes(void **state)
{
	int kept, gone;

	(void)state;
	{
		own_fd a = open("/dev/null", O_RDONLY | O_CLOEXEC), b = dup(a), none = -1;

		assert_true(a >= 0 && b >= 0 && none < 0);
		gone = a;
		kept = TAKE_FD(b);
		assert_int_equal(b, -1);
		errno = ENOTTY;
	}
	assert_int_equal(errno, ENOTTY);
	assert_int_equal(fcntl(gone, F_GETFD), -1);
	assert_int_equal(fcntl(kept, F_GETFD), 0);
	close(kept);
}

static void *pointer_taken(void)
{
	own_free char *p = mem_str("kept");

	return TAKE_PTR(p);
}

static void pointer_is_handed_on(void **state)
{
	own_free char *p = pointer_taken();

	(void)state;
	assert_string_equal(p, "kept");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zeroed),
		cmocka_unit_test(copies),
		cmocka_unit_test(no_memory),
		cmocka_unit_test(fd_closes),
		cmocka_unit_test(pointer_is_handed_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
