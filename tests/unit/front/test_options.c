/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines and configuration files: as CRIU's callers write them, and as nobody should. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/own.h"
#include "engine/dump.h"
#include "fixture.h"
#include "front/options.h"

#define WORDS_MAX 16

struct line {
	const char *text;               /* words with one blank between */
	int r;                          /* what options_parse() returns, */
	const char *error;              /* and a part of its words */
	struct options want;
};

/* Splits text in place into what main() gets.  Only our own file is read as configuration. */
static int parse(char *text, struct options *options, struct err *err)
{
	char *argv[WORDS_MAX] = { (char *)"ferry" };
	int argc = 1;

	for (char *word = strtok(text, " "); word && argc < WORDS_MAX - 1; word = strtok(NULL, " "))
		argv[argc++] = word;
	return options_parse(argc, argv, options, err);
}

static void check_text(const char *line, const char *name, const char *got, const char *want)
{
	if (want ? !got || strcmp(got, want) != 0 : got != NULL)
		fail_msg("%s: %s is %s, not %s", line, name, got ? got : "(none)", want ? want : "(none)");
}

static void check_int(const char *line, const char *name, int got, int want)
{
	if (got != want)
		fail_msg("%s: %s is %d, not %d", line, name, got, want);
}

static void check_same(const char *line, const struct options *got, const struct options *want)
{
	check_text(line, "command", got->command, want->command ? want->command : "dump");
	check_text(line, "images_dir", got->images_dir, want->images_dir ? want->images_dir : ".");
	check_text(line, "work_dir", got->work_dir, want->work_dir ? want->work_dir : got->images_dir);
	check_text(line, "log_file", got->log_file, want->log_file);
	check_text(line, "pidfile", got->pidfile, want->pidfile);
	check_text(line, "feature", got->feature, want->feature);
	check_int(line, "verbosity", got->verbosity, want->verbosity ? want->verbosity : 2);
	check_int(line, "timeout_s", got->timeout_s, want->timeout_s ? want->timeout_s : 10);
	check_int(line, "tree", got->tree, want->tree);
	check_int(line, "then", got->then, want->then);
	check_int(line, "shell_job", got->shell_job, want->shell_job);
	check_int(line, "detached", got->detached, want->detached);
	check_int(line, "sibling", got->sibling, want->sibling);
	check_int(line, "exec_cmd", got->exec_cmd, want->exec_cmd);
	check_int(line, "all", got->all, want->all);
	check_text(line, "address", got->address, want->address);
	check_int(line, "port", got->port, want->port);
	check_int(line, "page_server", got->page_server, want->page_server);
	check_int(line, "ps_socket", got->ps_socket, want->ps_socket ? want->ps_socket : -1);
	check_int(line, "status_fd", got->status_fd, want->status_fd ? want->status_fd : -1);
	check_int(line, "daemon", got->daemon, want->daemon);
	check_int(line, "tls", got->tls, want->tls);
	check_int(line, "passed_over", (int)got->passed_over.len, (int)want->passed_over.len);
}

static const struct line lines[] = {
	/* as CRIU's callers write them */
	{ "dump -t 12 -D d -R", .want = { .tree = 12, .images_dir = "d", .then = DUMP_THEN_RUN } },
	{ "dump --tree=12 --images-dir=d --leave-running", .want = { .tree = 12, .images_dir = "d", .then = DUMP_THEN_RUN } },
	{ "-t12 -Dd dump -Rj", .want = { .tree = 12, .images_dir = "d", .then = DUMP_THEN_RUN, .shell_job = 1 } },
	{ "dump -R -s", .want = { .then = DUMP_THEN_STOP } },
	{ "dump -s -R", .want = { .then = DUMP_THEN_RUN } },
	{ "dump -R --no-leave-running", .want = { .then = DUMP_THEN_KILL } },
	{ "dump -jo log -D d -W w --timeout 3", .want = { .shell_job = 1, .log_file = "log", .images_dir = "d",
		.work_dir = "w", .timeout_s = 3 } },
	{ "dump --work-dir=", .want = { .work_dir = "" } },
	{ "restore -dS --pidfile p -j --no-shell-job", .want = { .command = "restore", .detached = 1, .sibling = 1, .pidfile = "p" } },
	{ "dump --no-default-config --no-default-config -t 1", .want = { .tree = 1 } },
	{ "check --all --no-extra --experimental", .want = { .command = "check", .all = 1 } },
	{ "check --feature list", .want = { .command = "check", .feature = "list" } },

	/* how much is logged */
	{ "dump -v", .want = { .verbosity = 3 } },
	{ "dump -v4", .want = { .verbosity = 4 } },
	{ "dump -vvvv", .want = { .verbosity = 6 } },
	{ "dump -vv -v", .want = { .verbosity = 5 } },
	{ "dump -v4 -j", .want = { .verbosity = 4, .shell_job = 1 } },
	{ "dump --verbosity", .want = { .verbosity = 3 } },
	{ "dump --verbosity=4", .want = { .verbosity = 4 } },
	{ "dump -verbosity=4", .want = { .verbosity = 4 } },
	{ "dump -jv1", .want = { .verbosity = 1, .shell_job = 1 } },

	/* of other commands, and of CRIU */
	{ "dump -d -S -t 1", .want = { .detached = 1, .sibling = 1, .tree = 1 } },
	{ "restore -R -t 7 --timeout 3", .want = { .command = "restore", .then = DUMP_THEN_RUN, .tree = 7, .timeout_s = 3 } },
	{ "dump --pre-dump-mode splice --tcp-established -l -x", .want = { .passed_over.len = 4 } },
	{ "dump -x12 -j --cpu-cap --cpu-cap=all", .want = { .shell_job = 1, .passed_over.len = 3 } },
	{ "dump --manage-cgroups=ignore", .want = { .passed_over.len = 1 } },
	{ "dump --no-lazy-pages", .want = { .passed_over.len = 1 } },
	{ "dump -r /x --inherit-fd fd[3]:x", .want = { .passed_over.len = 2 } },
	{ "dump --manage-cgroups", -EOPNOTSUPP, "--manage-cgroups: asks for control groups" },
	{ "dump --external mnt[]", -EOPNOTSUPP, "--external" },
	{ "restore -r /x", -EOPNOTSUPP, "--root" },
	{ "dump --page-server --address h --port 7 --tls", .want = { .page_server = 1, .address = "h", .port = 7, .tls = 1 } },
	{ "page-server -d --status-fd 3 --ps-socket 4", .want = { .command = "page-server", .daemon = 1, .status_fd = 3, .ps_socket = 4 } },
	{ "page-server --peer-timeout 0", -EINVAL, "--peer-timeout" },

	/* as nobody should */
	{ "nosuch", -EINVAL, "no such command: nosuch" },
	{ "dump --nosuch", -EINVAL, "no such option: --nosuch" },
	{ "dump --nosuch=1", -EINVAL, "no such option: --nosuch" },
	{ "dump --no-", -EINVAL, "no such option: --no-" },
	{ "dump --no-tree", -EINVAL, "no such option: --no-tree" },
	{ "dump --=x", -EINVAL, "no such option" },
	{ "dump -jz", -EINVAL, "no such option: -z" },
	{ "dump -t", -EINVAL, "--tree: wants an argument (PID)" },
	{ "dump --log-file", -EINVAL, "--log-file: wants an argument" },
	{ "dump -t 0", -EINVAL, "--tree: '0' is no number from 1" },
	{ "dump -t -5", -EINVAL, "is no number" },
	{ "dump -t 12x", -EINVAL, "is no number" },
	{ "dump -t 0x12", -EINVAL, "is no number" },
	{ "dump --tree=", -EINVAL, "is no number" },
	{ "dump -t 2147483648", -EINVAL, "is no number" },
	{ "dump -t 99999999999999999999", -EINVAL, "is no number" },
	{ "dump --timeout 0", -EINVAL, "--timeout" },
	{ "dump --shell-job=1", -EINVAL, "--shell-job: takes no argument" },
	{ "dump -v9x", -EINVAL, "--verbosity" },
	{ "dump -t 1 2", -EINVAL, "what is '2' for?" },
	{ "restore -- ls", -EINVAL, "what is 'ls' for?" },
};

static void test_lines(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		const struct line *line = &lines[i];
		own_free char *text = strdup(line->text);
		struct options options;
		struct err err = { 0 };
		char said[600];
		int r = parse(text, &options, &err);

		snprintf(said, sizeof(said), "%s: %s", err.scope, err.text);
		if (r != line->r || (line->error && !strstr(said, line->error)))
			fail_msg("%s: %d (%s)", line->text, r, said);
		if (r == 0)
			check_same(line->text, &options, &line->want);
		options_free(&options);
	}
}

static void test_operands(void **state)
{
	char text[] = "restore -d --exec-cmd -- env -i --nosuch", none[] = "show";
	struct options options;
	struct err err;

	(void)state;
	assert_int_equal(parse(text, &options, &err), 0);
	assert_int_equal(options.operands.len, 3);
	assert_string_equal(options.operands.at[0], "env");
	assert_string_equal(options.operands.at[2], "--nosuch");
	assert_null(options.operands.at[3]);
	options_free(&options);
	assert_int_equal(parse(none, &options, &err), 0);
	assert_int_equal(options.operands.len, 0);
	assert_null(options.operands.at[0]);
	options_free(&options);
}

/* Every short form means one thing to a command and is read alike by all, and no name hides behind the no- of another. */
static void test_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < options_count; i++) {
		const struct option *o = &options_table[i];
		struct setting s;

		assert_true(option_find(o->name, strlen(o->name), &s));
		if (s.option != o || s.no)
			fail_msg("--%s is something else", o->name);
		if ((o->kind == OPTION_FLAG) != !o->argument || (!o->help && (o->fate < OPTION_HIDDEN || o->fate == OPTION_REFUSED)))
			fail_msg("--%s lacks words", o->name);
		for (size_t k = 0; k < i; k++)
			if (o->letter && o->letter == options_table[k].letter &&
			    (o->commands & options_table[k].commands || o->kind != options_table[k].kind))
				fail_msg("-%c is two things", o->letter);
	}
}

/* ---- configuration ---- */

static const char *write_config(struct fixture *f, const char *text, size_t len_bytes, char path[static 100])
{
	own_fd fd = -1;

	snprintf(path, 100, "%s/x.conf", f->dir);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(write(fd, text, len_bytes), len_bytes);
	return path;
}

struct config {
	const char *text;
	size_t len_bytes;               /* 0: up to the NUL */
	int r;
	const char *error;
	struct options want;
};

static const struct config configs[] = {
	{ "" },
	{ "\n\n  # only a comment\n\t\n" },
	{ "log-file dump.log\nverbosity=4\n", .want = { .log_file = "dump.log", .verbosity = 4 } },
	{ "log-file = dump.log", .want = { .log_file = "dump.log" } },
	{ "  shell-job# a comment\r\nleave-running\t\r\n", .want = { .shell_job = 1, .then = DUMP_THEN_RUN } },
	{ "shell-job\nno-shell-job", .want = { .shell_job = 0 } },
	{ "work-dir \"my \\\"work\\\" # \\ dir\"  # yes\n", .want = { .work_dir = "my \"work\" # \\ dir" } },
	{ "work-dir \"\"", .want = { .work_dir = "" } },
	{ "verbosity\n", .want = { .verbosity = 3 } },
	{ "tcp-established\npre-dump-mode read\n", .want = { .passed_over.len = 2 } },
	{ "shell-job\nlog-file a b\n", 0, -EBADMSG, "x.conf:2: --log-file: one argument is enough" },
	{ "log-file \"a", 0, -EBADMSG, "x.conf:1: a quote is not closed" },
	{ "log-file \"", 0, -EBADMSG, "a quote is not closed" },
	{ "log-file \"\\\"", 0, -EBADMSG, "a quote is not closed" },
	{ "log-file\n", 0, -EINVAL, "x.conf:1 > --log-file: wants an argument" },
	{ "shell-job=yes\n", 0, -EINVAL, "takes no argument" },
	{ "timeout zero\n", 0, -EINVAL, "is no number" },
	{ "nosuch\n", 0, -EBADMSG, "no such option: nosuch" },
	{ "--shell-job\n", 0, -EBADMSG, "no such option" },
	{ "=", 0, -EBADMSG, "no such option" },
	{ "\"", 0, -EBADMSG, "no such option" },
	{ "dump\n", 0, -EBADMSG, "no such option" },
	{ "config other\n", 0, -EBADMSG, "belongs on the command line" },
	{ "list-options", 0, -EBADMSG, "belongs on the command line" },
	{ "lazy-pages", 0, -EOPNOTSUPP, "x.conf:1 > --lazy-pages" },
	{ "log-file a\0b\n", 13, -EBADMSG, "no line of text" },
	{ "\x7f" "ELF\2\1\1\0\0\0", 10, -EBADMSG, "no line of text" },
};

static int parse_config(const char *path, const char *more, struct options *options, struct err *err)
{
	char *argv[] = { (char *)"ferry", (char *)"dump", (char *)"--config", (char *)path, (char *)more, NULL };

	return options_parse(more ? 5 : 4, argv, options, err);
}

static void test_configs(void **state)
{
	struct fixture *f = *state;
	char path[100], said[700];

	for (size_t i = 0; i < ARRAY_LEN(configs); i++) {
		const struct config *c = &configs[i];
		struct options options;
		struct err err = { 0 };
		int r;

		write_config(f, c->text, c->len_bytes ? c->len_bytes : strlen(c->text), path);
		r = parse_config(path, NULL, &options, &err);
		snprintf(said, sizeof(said), "%s: %s", err.scope, err.text);
		if (r != c->r || (c->error && !strstr(said, c->error)))
			fail_msg("%s: %d (%s)", c->text, r, said);
		if (r == 0)
			check_same(c->text, &options, &c->want);
		options_free(&options);
	}
}

static void test_long_line(void **state)
{
	struct fixture *f = *state;
	own_free char *text = malloc(100000);
	struct options options;
	struct err err = { 0 };
	char path[100];

	memset(text, 'a', 100000);
	write_config(f, text, 100000, path);
	assert_int_equal(parse_config(path, NULL, &options, &err), -EBADMSG);
	options_free(&options);
	assert_int_equal(parse_config("/dev/zero", NULL, &options, &err), -EBADMSG);
	options_free(&options);
}

/* Missing, or no file: an error where somebody named it. */
static void test_no_file(void **state)
{
	struct fixture *f = *state;
	struct options options;
	struct err err = { 0 };
	char path[100];

	snprintf(path, sizeof(path), "%s/none", f->dir);
	assert_int_equal(parse_config(path, NULL, &options, &err), -ENOENT);
	options_free(&options);
	assert_int_equal(parse_config(f->dir, NULL, &options, &err), -EISDIR);
	options_free(&options);
}

/* $HOME's, then --config's, then the command line's. */
static void test_order(void **state)
{
	struct fixture *f = *state;
	struct options options;
	struct err err = { 0 };
	char path[100], home[100];
	own_free char *text = NULL;

	write_config(f, "verbosity=1\npidfile p\nshell-job\nlog-file home", 45, path);
	snprintf(home, sizeof(home), "%s/.criu", f->dir);
	assert_int_equal(mkdir(home, 0700), 0);
	snprintf(home, sizeof(home), "%s/.criu/default.conf", f->dir);
	assert_int_equal(rename(path, home), 0);
	setenv("HOME", f->dir, 1);
	write_config(f, "log-file named\nverbosity=3", 26, path);
	assert_int_equal(parse_config(path, "--no-shell-job", &options, &err), 0);
	check_same("all three", &options, &(struct options){ .pidfile = "p", .log_file = "named", .verbosity = 3 });
	options_free(&options);
	assert_int_equal(parse_config(path, "--no-default-config", &options, &err), 0);
	check_same("two", &options, &(struct options){ .log_file = "named", .verbosity = 3 });
	options_free(&options);
	setenv("CRIU_CONFIG_FILE", path, 1);
	text = strdup("dump --no-default-config -o line");
	assert_int_equal(parse(text, &options, &err), 0);
	check_same("environment", &options, &(struct options){ .log_file = "line", .verbosity = 3 });
	options_free(&options);
	unsetenv("CRIU_CONFIG_FILE");
	setenv("HOME", "/nonexistent", 1);
	assert_int_equal(unlink(home), 0);
	snprintf(home, sizeof(home), "%s/.criu", f->dir);
	assert_int_equal(rmdir(home), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_operands),
		cmocka_unit_test(test_table),
		cmocka_unit_test_setup_teardown(test_configs, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_long_line, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_no_file, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_order, fixture_setup, fixture_teardown),
	};

	setenv("HOME", "/nonexistent", 1);
	unsetenv("CRIU_CONFIG_FILE");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
