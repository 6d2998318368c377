/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.c - options from a file.
 *
 *	# a comment
 *	log-file dump.log
 *	verbosity=4
 *	work-dir "a \"quoted\" name"
 *	no-shell-job            # a flag taken back
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "front/options.h"

#define LINE_BYTES 8192
#define BLANKS     " \t\r\n"

static void own_file_drop(FILE **f)
{
	if (*f)
		fclose(*f);
}

/* The argument that begins at `at` is cut out in place; *ret_end is what follows it.  NULL: its quote is not closed. */
static char *cut_argument(char *at, char **ret_end)
{
	char *from = at, *to = at;

	if (*from != '"') {
		*ret_end = at + strcspn(at, BLANKS "#");
		return at;
	}
	for (from++; *from && *from != '"'; from++) {
		if (from[0] == '\\' && from[1] == '"')
			from++;
		*to++ = *from;
	}
	*ret_end = from + 1;
	if (*from != '"')
		return NULL;
	*to = '\0';
	return at;
}

static int read_argument(char *at, struct options *options, struct setting *s, struct err *err)
{
	char *end, *text = cut_argument(at, &end);
	char after;

	if (!text)
		return err_set(err, EBADMSG, "a quote is not closed");
	after = end[strspn(end, BLANKS)];
	*end = '\0';
	if (after && after != '#')
		return err_set(err, EBADMSG, "--%s: one argument is enough (quote it if it has blanks)", s->option->name);
	s->text = text = mem_str(text);
	vec_push(&options->texts, text);
	return 0;
}

static int apply_text(char *line, struct options *options, struct err *err)
{
	char *name = line + strspn(line, BLANKS);
	size_t len_bytes = strcspn(name, BLANKS "=#");
	char *at = name + len_bytes + strspn(name + len_bytes, BLANKS);
	struct setting s;
	int r = 0;

	if (*name == '\0' || *name == '#')
		return 0;
	if (!option_find(name, len_bytes, &s))
		return err_set(err, EBADMSG, "no such option: %.*s", (int)(len_bytes < 60 ? len_bytes : 60), name);
	if (s.option->fate == OPTION_ALONE || s.option->fate == OPTION_HIDDEN)
		return err_set(err, EBADMSG, "--%s belongs on the command line", s.option->name);
	if (*at == '=')
		at += 1 + strspn(at + 1, BLANKS);
	if (*at && *at != '#')
		r = read_argument(at, options, &s, err);
	return r < 0 ? r : option_apply(options, &s, err);
}

/* 1: a line; 0: the end */
static int read_line(FILE *file, char line[static LINE_BYTES], struct err *err)
{
	size_t n = 0;
	int c;

	while ((c = fgetc(file)) != EOF && c != '\n') {
		if (c == '\0' || n + 1 == LINE_BYTES)
			return err_set(err, EBADMSG, "this is no line of text");
		line[n++] = (char)c;
	}
	line[n] = '\0';
	if (ferror(file))
		return err_sys(err, "read");
	return c != EOF || n > 0;
}

int config_apply(const char *path, bool must_exist, struct options *options, struct err *err)
{
	__attribute__((cleanup(own_file_drop))) FILE *file = fopen(path, "re");
	char line[LINE_BYTES];
	int r = 1;

	if (!file && (errno == ENOENT || errno == EACCES) && !must_exist)  /* EACCES: the home of whom we were */
		return 0;
	if (!file)
		return err_sys(err, "%s", path);
	for (unsigned int number = 1; r > 0; number++) {
		LOG_SCOPE("%s:%u", path, number);

		r = read_line(file, line, err);
		if (r > 0 && apply_text(line, options, err) < 0)
			return -err->code;
	}
	return r;
}
