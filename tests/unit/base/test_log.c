/* SPDX-License-Identifier: Apache-2.0 */
/* Lines: whose, how much, whole, and not mixed up by threads. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../cm.h"
#include "base/log.h"
#include "base/own.h"

struct text { char at[64 * 1024]; };

static int to_memory(void **state)
{
	int *fd = malloc(sizeof(*fd));

	*fd = memfd_create("log", MFD_CLOEXEC);
	log_setup(*fd, LOG_INFO);
	*state = fd;
	return *fd < 0;
}

static int back_to_stderr(void **state)
{
	int *fd = *state;

	log_setup(STDERR_FILENO, LOG_WARN);
	close(*fd);
	free(fd);
	return 0;
}

static const char *written(void **state, struct text *t)
{
	ssize_t n = pread(*(int *)*state, t->at, sizeof(t->at) - 1, 0);

	assert_true(n >= 0);
	t->at[n] = '\0';
	return t->at;
}

static void lines(void **state)
{
	struct text t;

	log_info("%d tasks", 3);
	{
		LOG_SCOPE("task %d", 12);
		LOG_SCOPE("fd %d", 7);
		log_info("a pipe");
	}
	log_info("done");
	assert_string_equal(written(state, &t), "info (test_log) 3 tasks\n"
						"info (test_log) task 12 > fd 7: a pipe\n"
						"info (test_log) done\n");
}

static void levels(void **state)
{
	struct text t;

	assert_true(log_on(LOG_ERROR) && log_on(LOG_INFO));
	assert_false(log_on(LOG_DEBUG));
	log_debug("%d", 1 / (int)(*state == NULL));     /* not evaluated */
	assert_string_equal(written(state, &t), "");
	log_setup(*(int *)*state, LOG_DEBUG);
	log_debug("now");
	assert_string_equal(written(state, &t), "debug (test_log) now\n");
}

/* Warnings and errors are for the user too. */
static void warnings_twice(void **state)
{
	own_fd copy = dup(STDERR_FILENO), fake = memfd_create("stderr", MFD_CLOEXEC);
	struct text t;
	char twice[100] = "";

	dup2(fake, STDERR_FILENO);
	log_warn("hot");
	log_info("quiet");
	log_setup(STDERR_FILENO, LOG_INFO);
	log_warn("once");
	dup2(copy, STDERR_FILENO);
	assert_string_equal(written(state, &t), "Warn (test_log) hot\ninfo (test_log) quiet\n");
	assert_true(pread(fake, twice, sizeof(twice) - 1, 0) > 0);
	assert_string_equal(twice, "Warn (test_log) hot\nWarn (test_log) once\n");
}

static void long_lines_are_cut(void **state)
{
	struct text t;
	char text[5000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	log_info("%s", text);
	log_info("next");
	assert_int_equal(strcspn(written(state, &t), "\n"), 1022);
	assert_string_equal(t.at + 1022, "\ninfo (test_log) next\n");
}

/* A scope that does not fit is cut, and what it opened in closes as before. */
static void long_scopes(void **state)
{
	char scope[300], full[300], name[201];

	(void)state;
	memset(name, 'n', 200);
	name[200] = '\0';
	for (int len = 190; len <= 200; len++) {
		LOG_SCOPE("%s", name + 200 - len);
		log_scope_copy(full, sizeof(full));
		assert_int_equal(strlen(full), len < 199 ? len : 199);
		for (int i = 0; i < 3; i++) {
			LOG_SCOPE("%d", i);
			log_scope_copy(scope, sizeof(scope));
			assert_true(strlen(scope) <= 199);
			assert_memory_equal(scope, full, strlen(full));
		}
		log_scope_copy(scope, sizeof(scope));
		assert_string_equal(scope, full);
	}
	log_scope_copy(scope, sizeof(scope));
	assert_string_equal(scope, "");
}

static void copy_is_cut(void **state)
{
	char scope[5];

	(void)state;
	LOG_SCOPE("restore");
	log_scope_copy(scope, sizeof(scope));
	assert_string_equal(scope, "rest");
}

/* Between a failed call and its err_sys() there may be a line of the log. */
static void errno_survives(void **state)
{
	log_setup(-1, LOG_INFO);
	errno = ENOTDIR;
	log_info("to nowhere");
	assert_int_equal(errno, ENOTDIR);
	log_setup(*(int *)*state, LOG_INFO);
}

#define THREADS 4
#define LINES   100

static void *writer(void *name)
{
	LOG_SCOPE("%s%s%s%s", (char *)name, (char *)name, (char *)name, (char *)name);
	for (int i = 0; i < LINES; i++)
		log_info("%03d", i);
	return NULL;
}

static void threads_do_not_mix(void **state)
{
	char *names[THREADS] = { "aaaaa", "bbbbb", "ccccc", "ddddd" };
	int next[THREADS] = { 0 }, n = 0;
	pthread_t threads[THREADS];
	struct text t;
	char *rest, *line;

	assert_int_equal(fcntl(*(int *)*state, F_SETFL, O_APPEND), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, writer, names[i]), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	written(state, &t);
	for (line = strtok_r(t.at, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), n++) {
		char want[100], c = line[strlen("info (test_log) ")];

		assert_in_range(c, 'a', 'd');
		const char *name = names[c - 'a'];

		snprintf(want, sizeof(want), "info (test_log) %s%s%s%s: %03d", name, name, name, name, next[c - 'a']++);
		assert_string_equal(line, want);
	}
	assert_int_equal(n, THREADS * LINES);
}

#define LOG_TEST(f) cmocka_unit_test_setup_teardown(f, to_memory, back_to_stderr)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOG_TEST(lines),
		LOG_TEST(levels),
		LOG_TEST(warnings_twice),
		LOG_TEST(long_lines_are_cut),
		LOG_TEST(long_scopes),
		LOG_TEST(copy_is_cut),
		LOG_TEST(errno_survives),
		LOG_TEST(threads_do_not_mix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
