/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "front/command.h"

const struct command commands[] = {
	{ "dump", FOR_DUMP, cmd_dump, "dump -t PID [-D DIR] [OPTION...]",
	  "Freezes the tree of PID, writes it to images in DIR, and ends it." },
	{ "pre-dump", FOR_PREDUMP, cmd_predump, "pre-dump -t PID [-D DIR] [OPTION...]",
	  "Writes the memory of the tree of PID to DIR while it runs, for a dump that then needs only what changed." },
	{ "restore", FOR_RESTORE, cmd_restore, "restore [-D DIR] [OPTION...] [--exec-cmd -- COMMAND [ARGUMENT...]]",
	  "Makes the tasks in the images of DIR again, and waits for the root's end." },
	{ "check", FOR_CHECK, cmd_check, "check [--all | --feature NAME]",
	  "Tells what this kernel offers, and what is lost without it." },
	{ "show", FOR_SHOW, cmd_show, "show [DIR | IMAGE | STREAM]",
	  "Prints a summary of a directory or a stream (-: standard input), or an image as JSON." },
	{ "verify", FOR_VERIFY, cmd_verify, "verify [DIR]",
	  "Compares the images and pages of DIR, and of all that it takes pages from, with their checksums." },
	{ "dedup", FOR_DEDUP, cmd_dedup, "dedup [-D DIR]",
	  "Takes pages that a chain's newest directory DIR does not read out of the older ones." },
	{ "squash", FOR_SQUASH, cmd_squash, "squash [-D DIR] -o OUT",
	  "Makes one directory OUT, with all its pages, of the chain whose newest is DIR." },
	{ "pack", FOR_PACK, cmd_pack, "pack [DIR] > STREAM",
	  "Writes the images of DIR, with its whole chain, to standard output as one stream." },
	{ "unpack", FOR_UNPACK, cmd_unpack, "unpack STREAM DIR", "Makes a new directory DIR of a stream (-: standard input)." },
	{ "page-server", FOR_PAGE_SERVER, cmd_page_server, "page-server [-D DIR] [OPTION...]",
	  "Takes the pages of a dump that runs elsewhere (--page-server) into DIR." },
	{ "migrate", FOR_MIGRATE, cmd_migrate, "migrate -t PID [OPTION...] DEST",
	  "Moves the running tree of PID to DEST: user@host, ssh://, tls://, tcp://, unix:PATH or fd:N." },
	{ "receive", FOR_RECEIVE, cmd_receive, "receive [OPTION...]", "Takes a tree that is migrated here." },
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
