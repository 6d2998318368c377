/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>

#include "kernel/proc.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/scan.h"

int proc_fdinfo_text(pid_t pid, int fd, char *buf, size_t size, struct err *err)
{
	char name[32];

	snprintf(name, sizeof(name), "fdinfo/%d", fd);
	return proc_read(pid, name, buf, size, err);
}

bool fdinfo_next(const char **at, const char *prefix, struct fdinfo_line *ret_line)
{
	struct scan s = scan_of(*at, strlen(*at)), line;

	while (scan_line(&s, &line)) {
		if (scan_text(&line, prefix)) {
			*ret_line = (struct fdinfo_line){ line.at, (size_t)(line.end - line.at) };
			*at = s.at;
			return true;
		}
	}
	return false;
}

/* A number and nothing that goes on with it. */
static bool scan_word_u64(struct scan *s, unsigned int base, uint64_t *ret_value)
{
	uint64_t v;

	scan_blanks(s);
	if (!scan_u64(s, base, &v) || (s->at < s->end && *s->at != ' ' && *s->at != '\t'))
		return false;
	*ret_value = v;
	return true;
}

static bool find_key(const char *text, const char *key, struct fdinfo_line *ret_line)
{
	while (fdinfo_next(&text, key, ret_line)) {
		if (ret_line->len > 0 && *ret_line->at == ':') {
			ret_line->at++;
			ret_line->len--;
			return true;
		}
	}
	return false;
}

bool fdinfo_has(const char *text, const char *key)
{
	struct fdinfo_line line;

	return find_key(text, key, &line);
}

int fdinfo_u64(const char *text, const char *key, unsigned int base, uint64_t *ret_value, struct err *err)
{
	struct fdinfo_line line;
	struct scan s;

	if (!find_key(text, key, &line))
		return err_set(err, ENODATA, "fdinfo has no '%s'", key);
	s = scan_of(line.at, line.len);
	if (!scan_word_u64(&s, base, ret_value))
		return err_set(err, EBADMSG, "fdinfo: '%s' is not understood", key);
	return 0;
}

/* The cursor after "KEY:" where KEY begins a word. */
static bool find_word(struct scan *s, const char *key)
{
	while (s->at < s->end) {
		struct scan t = *s;

		scan_blanks(&t);
		s->at = t.at;
		if (scan_text(&t, key) && scan_char(&t, ':')) {
			*s = t;
			return true;
		}
		while (s->at < s->end && *s->at != ' ' && *s->at != '\t')
			s->at++;
	}
	return false;
}

int fdinfo_line_u64(const struct fdinfo_line *line, const char *key, unsigned int base, uint64_t *ret_value,
		    struct err *err)
{
	struct scan s = scan_of(line->at, line->len);

	if (*key && !find_word(&s, key))
		return err_set(err, ENODATA, "fdinfo line has no '%s'", key);
	if (!scan_word_u64(&s, base, ret_value))
		return err_set(err, EBADMSG, "fdinfo line: '%s' is not understood", key);
	return 0;
}
