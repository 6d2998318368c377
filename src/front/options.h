/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - everything a user can ask for, in one table.
 *
 *	command line ----> settings --+
 *	configuration ---> settings --+--> struct options --> cmd_*.c
 *
 * The command line, the configuration files, --help, the shell's completion
 * and the tests of the man pages all walk options_table.  Names and meanings
 * are CRIU's where CRIU has the thing; any option may come with any command,
 * which takes what concerns it.  What CRIU has and ferry has not is in the
 * table too: passed over where leaving it out harms nobody, else refused.
 *
 * To add an option: a field below, a line in options.c, a paragraph in the man
 * page of its command.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/vec.h"

enum command_bit {
	FOR_DUMP = 1, FOR_RESTORE = 2, FOR_CHECK = 4, FOR_SHOW = 8, FOR_RESUME = 16, FOR_KILL = 32,
	FOR_PREDUMP = 64, FOR_DEDUP = 128, FOR_SQUASH = 256, FOR_VERIFY = 512, FOR_PACK = 1024, FOR_UNPACK = 2048,
	FOR_PAGE_SERVER = 4096, FOR_MIGRATE = 8192, FOR_RECEIVE = 16384,
	FOR_ALL = 32767,
};

enum option_kind {
	OPTION_FLAG,            /* --name stores `value`, --no-name stores 0, in an int */
	OPTION_TEXT,            /* --name TEXT, --name=TEXT, in a const char * */
	OPTION_NUMBER,          /* a decimal number of at least `value`, in an int */
	OPTION_MAYBE,           /* --name or --name=TEXT */
	OPTION_LEVEL,           /* -v, -vvv, -v4, --verbosity=4, in an int */
};

enum option_fate {
	OPTION_TAKEN,
	OPTION_ALONE,           /* the same, but not from a configuration file */
	OPTION_HIDDEN,          /* the same, and --help doesn't tell */
	OPTION_PASSED_OVER,
	OPTION_REFUSED,         /* by `commands`; passed over by the others */
};

struct option {
	const char *name;
	char letter;            /* 0: none; means one thing to a command, but may mean another to another */
	enum option_kind kind;
	const char *argument;   /* "PID"; NULL for flags */
	enum option_fate fate;
	unsigned int commands;  /* enum command_bit: where it has a meaning */
	size_t at;              /* offset in struct options */
	int value;
	const char *help;       /* refused: what it asks for */
};

extern const struct option options_table[];
extern const size_t options_count;

/* Values point into argv, into the environment, or into what `texts` owns. */
struct options {
	const char *command;            /* NULL: none was named */
	unsigned int command_bit;
	VEC(char *) operands;           /* what follows the command; one NULL more lies behind them */
	int help, version, list;
	int verbosity;                  /* enum log_level, 0 for nothing; may be above LOG_DEBUG */
	const char *images_dir;         /* never NULL after options_parse() */
	const char *work_dir;           /* the same */
	const char *output, *log_file, *pidfile, *config, *feature;
	int no_default_config;
	int tree;                       /* a pid; 0: none given */
	int then;                       /* enum dump_then */
	const char *prev_images_dir, *tracker;
	int background;                 /* enum dump_background */
	int track_mem, auto_dedup;
	int stream;
	/* migration */
	const char *listen, *unix_path, *on_no_convergence;
	const char *exec_after, *bandwidth, *sync;
	int once;                       /* 1, but for --no-once */
	int check, stdio, channels, max_downtime_ms, max_rounds, max_time_s;
	const char *compress;
	int shell_job, detached, sibling, exec_cmd, dry_run, no_verify, display_stats, all;
	int timeout_s;
	/* connections */
	const char *address;
	int port;                       /* 0: none given */
	int page_server, ps_socket;     /* ps_socket, status_fd: a descriptor; -1: none */
	int status_fd, daemon, allow_plaintext;
	int peer_timeout_s;
	int tls, tls_no_cn_verify;
	const char *tls_cacert, *tls_cacrl, *tls_cert, *tls_key, *tls_psk;
	const char *progress;           /* "json", "json:FD" */
	VEC(const struct option *) passed_over;
	VEC(char *) texts;
};

/*
 * EINVAL: wrong usage; EOPNOTSUPP: asks for what ferry does not do; others: a configuration file can't be read.
 * Whatever it returns, *ret_options is set (as far as it came) and to be freed.
 */
int options_parse(int argc, char **argv, struct options *ret_options, struct err *err);
void options_free(struct options *options);

/* One option and what was said with it. */
struct setting {
	const struct option *option;
	const char *text;               /* NULL: nothing */
	bool no;                        /* --no-option */
	bool by_letter;
};

/* A name without dashes, "no-" in front of it understood; false: there is none. */
bool option_find(const char *name, size_t len_bytes, struct setting *ret);
int option_apply(struct options *options, const struct setting *s, struct err *err);

/* Applies one file; those that nobody named may be missing (0).  EBADMSG, with file and line: not understood. */
int config_apply(const char *path, bool must_exist, struct options *options, struct err *err);
