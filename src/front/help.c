/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "front/help.h"

#define COLUMN 30

static bool is_optional(const struct option *o)
{
	return o->kind == OPTION_MAYBE || o->kind == OPTION_LEVEL;
}

static void print_option(FILE *out, const struct option *o)
{
	char left[80], letter[8] = "    ";

	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c, ", o->letter);
	snprintf(left, sizeof(left), "%s--%s%s%s%s", letter, o->name, is_optional(o) ? "[=" : o->argument ? " " : "",
		 o->argument ? o->argument : "", is_optional(o) ? "]" : "");
	fprintf(out, strlen(left) < COLUMN ? "  %-*s%s\n" : "  %-*s\n", COLUMN, left, o->help);
	if (strlen(left) >= COLUMN)
		fprintf(out, "  %*s%s\n", COLUMN, "", o->help);
}

static bool is_told(const struct option *o)
{
	return o->fate == OPTION_TAKEN || o->fate == OPTION_ALONE;
}

static void print_command(FILE *out, const struct command *command)
{
	fprintf(out, "Usage: ferry %s\n\n%s\n\nOptions:\n", command->synopsis, command->what);
	for (size_t i = 0; i < options_count; i++)
		if (is_told(&options_table[i]) && (options_table[i].commands & command->bit))
			print_option(out, &options_table[i]);
	fputs("\nFlags can be taken back: --no-OPTION. Options of other commands, and CRIU's, are passed over;\n"
	      "those that ask for what ferry can't do are refused.\n", out);
}

static void print_program(FILE *out)
{
	fputs("Usage: ferry COMMAND [OPTION...]\n\nCheckpoints running programs to images, and brings them back.\n\nCommands:\n",
	      out);
	for (const struct command *c = commands; c->name; c++)
		fprintf(out, "  %-13s%s\n", c->name, c->what);
	fputs("\nOptions of all commands:\n", out);
	for (size_t i = 0; i < options_count; i++)
		if (is_told(&options_table[i]) && options_table[i].commands == FOR_ALL)
			print_option(out, &options_table[i]);
	fputs("\nferry COMMAND --help tells more.\n", out);
}

void help_print(FILE *out, const struct command *command)
{
	if (command)
		print_command(out, command);
	else
		print_program(out);
}

static void list_commands_of(FILE *out, const struct option *o)
{
	const char *comma = "";

	for (const struct command *c = commands; c->name; c++)
		if (o->commands & c->bit) {
			fprintf(out, "%s%s", comma, c->name);
			comma = ",";
		}
	fputs(*comma ? "" : "-", out);
}

static void list_option(FILE *out, const struct option *o)
{
	bool maybe = is_optional(o);

	fprintf(out, "option\t%s\t%c\t%s%s%s\t", o->name, o->letter ? o->letter : '-', maybe ? "[" : "",
		o->argument ? o->argument : "-", maybe ? "]" : "");
	list_commands_of(out, o);
	fprintf(out, "\t%s\n", is_told(o) ? "taken" : o->fate == OPTION_REFUSED ? "refused" : "passed-over");
}

void help_list(FILE *out)
{
	for (const struct command *c = commands; c->name; c++)
		fprintf(out, "command\t%s\t%s\n", c->name, c->what);
	for (size_t i = 0; i < options_count; i++)
		if (options_table[i].fate != OPTION_HIDDEN)
			list_option(out, &options_table[i]);
}
