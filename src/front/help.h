/* SPDX-License-Identifier: Apache-2.0 */
/* help.h - what the tables of options and commands say, for people and for programs. */
#pragma once
#include <stdio.h>

#include "front/command.h"

/* command: NULL for the whole program */
void help_print(FILE *out, const struct command *command);

/*
 * For the shell's completion and the tests, with tabs between:
 *	command	dump	what it does
 *	option	images-dir	D	DIR	dump,restore,show	taken
 * ("-" for no letter and no argument; "[DIR]" where it may be left out; fates: taken, passed-over, refused)
 */
void help_list(FILE *out);
