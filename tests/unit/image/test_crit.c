/* SPDX-License-Identifier: Apache-2.0 */
/* The peer's own decoder reads what we write. */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/own.h"
#include "fixture.h"

#define CRIT "/usr/bin/crit"

extern char **environ;

/* Its exit status; what it prints on standard output goes to `text`. */
static int decode(const char *path, char *text, size_t size)
{
	char *argv[] = { (char *)CRIT, (char *)"decode", (char *)"-i", (char *)path, NULL };
	posix_spawn_file_actions_t actions;
	size_t used = 0;
	int p[2], status;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, p[1], STDOUT_FILENO);
	assert_int_equal(posix_spawn(&pid, CRIT, &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(p[1]);
	while ((n = read(p[0], text + used, size - 1 - used)) > 0)
		used += (size_t)n;
	text[used] = '\0';
	close(p[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void crit_decodes_every_image(void **state)
{
	static const struct { const char *image, *shows; } wanted[] = {
		{ "core-12.img", "\"comm\": \"sleeper\"" },
		{ "fdinfo-2.img", "\"type\": \"EVENTFD\"" },
		{ "files.img", "18446744073709551614" },
		{ "ghost-file-1a.img", "Z29uZSBidXQgbm90IGZvcmdvdHRlbg==" },
		{ "pipes-data.img", "MDEyMzQ=" },
		{ "pagemap-12.img", "\"vaddr\": 140733193388032" },
		{ "pstree.img", "\"pid\": 12" },
		{ "inventory.img", "\"img_version\": 2" },
		{ "ids-12.img", "\"files_id\": 2" },
		{ "ipcns-msg-9.img", "\"qnum\": 2" },
	};
	struct fixture *f = *state;
	char path[128], text[8192];

	if (access(CRIT, X_OK) < 0)
		skip();
	fixture_fill(f, true);
	for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
		snprintf(path, sizeof(path), "%s/%s", f->dir, wanted[i].image);
		if (decode(path, text, sizeof(text)) != 0 || !strstr(text, wanted[i].shows))
			fail_msg("%s: should show %s, shows: %s", wanted[i].image, wanted[i].shows, text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(crit_decodes_every_image, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests_name("crit", tests, NULL, NULL);
}
