/* SPDX-License-Identifier: Apache-2.0 */
/*
 * command.h - the verbs: one file cmd_*.c each, one line in command.c.
 *
 * A command returns the exit status of the program (0 is success), or -errno
 * with *err, which main prints.
 */
#pragma once
#include "front/options.h"

struct command {
	const char *name;
	enum command_bit bit;
	int (*run)(const struct options *options, struct err *err);
	const char *synopsis;           /* "dump -t PID [-D DIR]" */
	const char *what;
};

extern const struct command commands[];         /* ends with a NULL name */

const struct command *command_find(const char *name);   /* NULL: no such command */

int cmd_dump(const struct options *options, struct err *err);
int cmd_predump(const struct options *options, struct err *err);
int cmd_restore(const struct options *options, struct err *err);
int cmd_check(const struct options *options, struct err *err);
int cmd_show(const struct options *options, struct err *err);
int cmd_page_server(const struct options *options, struct err *err);
int cmd_resume(const struct options *options, struct err *err);
int cmd_kill(const struct options *options, struct err *err);
int cmd_dedup(const struct options *options, struct err *err);
int cmd_pack(const struct options *options, struct err *err);
int cmd_unpack(const struct options *options, struct err *err);
int cmd_migrate(const struct options *options, struct err *err);
int cmd_receive(const struct options *options, struct err *err);
int cmd_squash(const struct options *options, struct err *err);
int cmd_verify(const struct options *options, struct err *err);
