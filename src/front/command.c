/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "front/command.h"

const struct command commands[] = {
	{ "dump", FOR_DUMP, cmd_dump, "dump -t PID [-D DIR] [OPTION...]",
	  "Freezes the tree of PID, writes it to images in DIR, and ends it." },
	{ "restore", FOR_RESTORE, cmd_restore, "restore [-D DIR] [OPTION...] [--exec-cmd -- COMMAND [ARGUMENT...]]",
	  "Makes the tasks in the images of DIR again, and waits for the root's end." },
	{ "check", FOR_CHECK, cmd_check, "check [--all | --feature NAME]",
	  "Tells what this kernel offers, and what is lost without it." },
	{ "show", FOR_SHOW, cmd_show, "show [DIR | IMAGE]", "Prints a summary of a directory, or an image as JSON." },
	{ "resume", FOR_RESUME, cmd_resume, "resume -t PID", "Lets a tree that a dump left stopped run on." },
	{ "kill", FOR_KILL, cmd_kill, "kill -t PID", "Kills a tree that a dump left stopped." },
	{ NULL },
};

const struct command *command_find(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}
