/* SPDX-License-Identifier: Apache-2.0 */
/* The line of progress: on terminals, after a second, and never in the way. */
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "fixture.h"
#include "front/progress_line.h"

#define SECOND_US 1000000u

struct screen { int ours, its, was; };

/* stderr is a terminal; whatever it shows can be read from `ours`. */
static int setup(void **state)
{
	static struct screen s;

	s.was = dup(STDERR_FILENO);
	assert_int_equal(openpty(&s.ours, &s.its, NULL, NULL, NULL), 0);
	dup2(s.its, STDERR_FILENO);
	*state = &s;
	return 0;
}

static int teardown(void **state)
{
	struct screen *s = *state;

	dup2(s->was, STDERR_FILENO);
	close(s->was);
	close(s->its);
	close(s->ours);
	return 0;
}

static const char *shown(const struct screen *s, char buf[static 1000])
{
	struct pollfd fd = { .fd = s->ours, .events = POLLIN };
	ssize_t n = poll(&fd, 1, 0) > 0 ? read(s->ours, buf, 999) : 0;

	buf[n > 0 ? n : 0] = '\0';
	return buf;
}

static void it_comes_after_a_second_and_goes(void **state)
{
	struct progress_line line;
	const struct progress *p = progress_line_begin(&line, "dumping", false);
	char buf[1000];

	assert_non_null(p);
	p->report(p->arg, 1, 4000);
	assert_string_equal(shown(*state, buf), "");
	line.began_us -= 2 * SECOND_US;
	p->report(p->arg, 1000, 4000);
	assert_non_null(strstr(shown(*state, buf), "\rdumping  25%  1,000 of 4,000 pages  0.0 GB/s"));
	p->report(p->arg, 1001, 4000);
	assert_string_equal(shown(*state, buf), "");
	line.drawn_us -= SECOND_US;
	p->report(p->arg, 0, 0);
	assert_non_null(strstr(shown(*state, buf), "0 pages"));
	progress_line_end(&line);
	assert_string_equal(shown(*state, buf), "\r\033[K");
}

static void a_stopped_terminal_is_not_waited_for(void **state)
{
	struct screen *s = *state;
	struct progress_line line;
	const struct progress *p = progress_line_begin(&line, "dumping", false);
	char buf[1000];

	line.began_us -= 2 * SECOND_US;
	assert_int_equal(tcflow(s->its, TCOOFF), 0);
	p->report(p->arg, 1, 2);
	assert_int_equal(tcflow(s->its, TCOON), 0);
	progress_line_end(&line);
	assert_string_equal(shown(s, buf), "");
}

static void there_is_none_without_a_terminal(void **state)
{
	struct screen *s = *state;
	struct progress_line line;
	int null = open("/dev/null", O_WRONLY);

	assert_null(progress_line_begin(&line, "dumping", true));
	dup2(null, STDERR_FILENO);
	assert_null(progress_line_begin(&line, "dumping", false));
	dup2(s->its, STDERR_FILENO);
	close(null);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(it_comes_after_a_second_and_goes, setup, teardown),
		cmocka_unit_test_setup_teardown(a_stopped_terminal_is_not_waited_for, setup, teardown),
		cmocka_unit_test_setup_teardown(there_is_none_without_a_terminal, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
