/* SPDX-License-Identifier: Apache-2.0 */
/* parse.c - the command line, and what one setting does. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "front/command.h"
#include "front/options.h"

#define TIMEOUT_S 10
#define PEER_TIMEOUT_S 30

struct command_line {
	char **argv;                    /* what is left of it; ends with NULL */
	VEC(struct setting) settings;
	struct options *options;        /* gets the command and the operands */
};

/* ---- one setting ---- */

static const struct option *find_exactly(const char *name, size_t len_bytes)
{
	for (size_t i = 0; i < options_count; i++)
		if (strlen(options_table[i].name) == len_bytes && memcmp(options_table[i].name, name, len_bytes) == 0)
			return &options_table[i];
	return NULL;
}

bool option_find(const char *name, size_t len_bytes, struct setting *ret)
{
	const struct option *option = find_exactly(name, len_bytes);
	bool no = false;

	if (!option && len_bytes > 3 && memcmp(name, "no-", 3) == 0) {
		option = find_exactly(name + 3, len_bytes - 3);
		no = option && option->kind == OPTION_FLAG;
		option = no ? option : NULL;
	}
	if (option)
		*ret = (struct setting){ .option = option, .no = no };
	return option;
}

static int parse_number(const char *text, int least, int *ret, struct err *err)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || text[0] < '0' || text[0] > '9' || value < least || value > INT_MAX)
		return err_set(err, EINVAL, "'%s' is no number from %d to %d", text, least, INT_MAX);
	*ret = (int)value;
	return 0;
}

/* Nothing: one more; "vvv" (of -vvvv): one more for each and the first; a number.  -verbosity=4 is understood too. */
static int parse_level(const char *text, int *level, struct err *err)
{
	if (!text || text[strspn(text, "v")] == '\0') {
		*level += 1 + (text ? (int)strlen(text) : 0);
		return 0;
	}
	if (strncmp(text, "erbosity=", 9) == 0)
		text += 9;
	return parse_number(text, 0, level, err);
}

/* What asks for nothing is not refused. */
static bool asks(const struct setting *s)
{
	bool ignore = s->text && strcmp(s->option->name, "manage-cgroups") == 0 && strcmp(s->text, "ignore") == 0;

	return !s->no && !ignore;
}

static int store(struct options *options, const struct setting *s, struct err *err)
{
	void *at = (char *)options + s->option->at;

	switch (s->option->kind) {
	case OPTION_FLAG:
		*(int *)at = s->no ? 0 : s->option->value;
		return 0;
	case OPTION_NUMBER:
		return parse_number(s->text, s->option->value, at, err);
	case OPTION_LEVEL:
		return parse_level(s->text, at, err);
	default:
		*(const char **)at = s->text;
		return 0;
	}
}

int option_apply(struct options *options, const struct setting *s, struct err *err)
{
	const struct option *o = s->option;
	LOG_SCOPE("--%s", o->name);

	if ((o->kind == OPTION_TEXT || o->kind == OPTION_NUMBER) && !s->text)
		return err_set(err, EINVAL, "wants an argument (%s)", o->argument);
	if (o->kind == OPTION_FLAG && s->text)
		return err_set(err, EINVAL, "takes no argument");
	if (o->fate < OPTION_PASSED_OVER)
		return store(options, s, err);
	if (o->fate == OPTION_REFUSED && (o->commands & options->command_bit) && asks(s))
		return err_set(err, EOPNOTSUPP, "asks for %s: not handled yet", o->help);
	vec_push(&options->passed_over, o);
	return 0;
}

/* ---- the command line ---- */

/* Commands may follow their options: so a letter is read first, and what it means to the command is asked again. */
static const struct option *find_letter(char letter, unsigned int command_bit)
{
	const struct option *found = NULL;

	for (size_t i = 0; i < options_count; i++)
		if (options_table[i].letter == letter && (!found || options_table[i].commands & command_bit))
			found = &options_table[i];
	return found;
}

/* The next word, where an option must have one. */
static const char *next_argument(struct command_line *line, const struct option *option)
{
	bool wanted = option->kind == OPTION_TEXT || option->kind == OPTION_NUMBER;

	return wanted && line->argv[0] ? *line->argv++ : NULL;
}

static int read_long(struct command_line *line, const char *word, struct err *err)
{
	size_t len_bytes = strcspn(word, "=");
	struct setting s;

	if (!option_find(word, len_bytes, &s))
		return err_set(err, EINVAL, "no such option: --%.*s", (int)len_bytes, word);
	s.text = word[len_bytes] ? word + len_bytes + 1 : next_argument(line, s.option);
	vec_push(&line->settings, s);
	return 0;
}

/* Letters in a row; the first that can have an argument has what follows. */
static int read_letters(struct command_line *line, const char *letters, struct err *err)
{
	for (; *letters; letters++) {
		struct setting s = { .option = find_letter(*letters, 0), .by_letter = true };

		if (!s.option)
			return err_set(err, EINVAL, "no such option: -%c", *letters);
		if (s.option->kind == OPTION_FLAG) {
			vec_push(&line->settings, s);
			continue;
		}
		s.text = letters[1] ? letters + 1 : next_argument(line, s.option);
		vec_push(&line->settings, s);
		return 0;
	}
	return 0;
}

static void read_operand(struct command_line *line, char *word)
{
	if (line->options->command)
		vec_push(&line->options->operands, word);
	else
		line->options->command = word;
}

static int read_words(struct command_line *line, struct err *err)
{
	bool only_operands = false;
	int r = 0;

	while (r == 0 && line->argv[0]) {
		char *word = *line->argv++;

		if (only_operands || word[0] != '-' || word[1] == '\0')
			read_operand(line, word);
		else if (strcmp(word, "--") == 0)
			only_operands = true;
		else if (word[1] == '-')
			r = read_long(line, word + 2, err);
		else
			r = read_letters(line, word + 1, err);
	}
	vec_push(&line->options->operands, NULL);       /* as execvp() wants it */
	line->options->operands.len--;
	return r;
}

static int find_command(struct command_line *line, struct err *err)
{
	struct options *options = line->options;
	const struct command *command = options->command ? command_find(options->command) : NULL;

	if (options->command && !command)
		return err_set(err, EINVAL, "no such command: %s", options->command);
	options->command_bit = command ? command->bit : 0;
	for (size_t i = 0; i < line->settings.len; i++)
		if (line->settings.at[i].by_letter)
			line->settings.at[i].option = find_letter(line->settings.at[i].option->letter, options->command_bit);
	return 0;
}

/* ---- all of it ---- */

static int apply_line(const struct command_line *line, bool alone, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < line->settings.len; i++)
		if ((line->settings.at[i].option->fate == OPTION_ALONE) == alone)
			r = option_apply(line->options, &line->settings.at[i], err);
	return r;
}

static int apply_configs(struct options *options, struct err *err)
{
	const char *home = getenv("HOME"), *named = getenv("CRIU_CONFIG_FILE");
	char path[PATH_MAX];
	int r = 0;

	if (!options->no_default_config)
		r = config_apply("/etc/criu/default.conf", false, options, err);
	if (r == 0 && !options->no_default_config && home &&
	    snprintf(path, sizeof(path), "%s/.criu/default.conf", home) < (int)sizeof(path))
		r = config_apply(path, false, options, err);
	if (r == 0 && named)
		r = config_apply(named, true, options, err);
	if (r == 0 && options->config)
		r = config_apply(options->config, true, options, err);
	return r;
}

static int check_operands(const struct options *options, struct err *err)
{
	const unsigned int taking = FOR_SHOW | FOR_VERIFY | FOR_PACK | FOR_UNPACK | FOR_MIGRATE;
	bool has_some = options->command_bit & taking || (options->command_bit & FOR_RESTORE && options->exec_cmd);

	if (options->operands.len == 0 || has_some)
		return 0;
	return err_set(err, EINVAL, "what is '%s' for?", options->operands.at[0]);
}

/* What concerns the reading itself goes first, then the files; the command line has the last word. */
static int parse(struct command_line *line, struct err *err)
{
	struct options *options = line->options;
	int r = read_words(line, err);

	if (r == 0)
		r = find_command(line, err);
	if (r == 0)
		r = apply_line(line, true, err);
	if (r == 0 && !options->help && !options->version)
		r = apply_configs(options, err);
	if (r == 0)
		r = apply_line(line, false, err);
	if (r == 0)
		r = check_operands(options, err);
	if (!options->images_dir)
		options->images_dir = ".";
	if (!options->work_dir)
		options->work_dir = options->images_dir;
	return r;
}

int options_parse(int argc, char **argv, struct options *ret_options, struct err *err)
{
	struct options options = { .verbosity = LOG_WARN, .timeout_s = TIMEOUT_S, .peer_timeout_s = PEER_TIMEOUT_S,
				   .max_downtime_ms = 100, .max_rounds = 30, .once = 1,
				   .ps_socket = -1, .status_fd = -1 };
	struct command_line line = { .argv = argv + (argc > 0), .options = &options };
	int r = parse(&line, err);

	vec_free(&line.settings);
	*ret_options = options;
	return r;
}

void options_free(struct options *options)
{
	for (size_t i = 0; i < options->texts.len; i++)
		free(options->texts.at[i]);
	vec_free(&options->texts);
	vec_free(&options->operands);
	vec_free(&options->passed_over);
}
