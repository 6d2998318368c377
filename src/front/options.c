/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "engine/dump.h"
#include "front/options.h"

#define AT(field)   .at = offsetof(struct options, field)
#define FLAG(field) .kind = OPTION_FLAG, .value = 1, AT(field)
#define TEXT(what)  .kind = OPTION_TEXT, .argument = what
#define MAYBE(what) .kind = OPTION_MAYBE, .argument = what
#define PASSED_OVER .fate = OPTION_PASSED_OVER
#define REFUSED(by) .fate = OPTION_REFUSED, .commands = by
#define FOR_BOTH    (FOR_DUMP | FOR_RESTORE)
#define FOR_WORK    (FOR_BOTH | FOR_RESUME | FOR_KILL)

const struct option options_table[] = {
	/* which tasks, which images */
	{ "tree", 't', OPTION_NUMBER, "PID", .commands = FOR_DUMP | FOR_RESUME | FOR_KILL, AT(tree), .value = 1,
	  .help = "the process at the root of the tree" },
	{ "images-dir", 'D', TEXT("DIR"), .commands = FOR_BOTH | FOR_SHOW, AT(images_dir),
	  .help = "where the images are (the current directory)" },
	{ "work-dir", 'W', TEXT("DIR"), .commands = FOR_BOTH, AT(work_dir),
	  .help = "where log, pidfile and statistics go (the images' directory)" },

	/* dump */
	{ "leave-running", 'R', OPTION_FLAG, .commands = FOR_DUMP, AT(then), .value = DUMP_THEN_RUN,
	  .help = "let the tasks run on after the dump" },
	{ "leave-stopped", 's', OPTION_FLAG, .commands = FOR_DUMP, AT(then), .value = DUMP_THEN_STOP,
	  .help = "leave the tasks stopped after the dump (see ferry resume, ferry kill)" },
	{ "timeout", 0, OPTION_NUMBER, "SECONDS", .commands = FOR_DUMP, AT(timeout_s), .value = 1,
	  .help = "give up when the tasks don't stand still by then (10)" },

	/* restore */
	{ "restore-detached", 'd', FLAG(detached), .commands = FOR_RESTORE, .help = "return when the tasks run" },
	{ "restore-sibling", 'S', FLAG(sibling), .commands = FOR_RESTORE,
	  .help = "make the root a child of ferry's parent (with -d)" },
	{ "exec-cmd", 0, FLAG(exec_cmd), .commands = FOR_RESTORE,
	  .help = "then become the command that follows --, as the root's parent" },
	{ "dry-run", 0, FLAG(dry_run), .commands = FOR_RESTORE, .help = "read and check the images, make nothing" },

	/* both */
	{ "shell-job", 'j', FLAG(shell_job), .commands = FOR_BOTH,
	  .help = "the tasks are a job of a shell: its session and terminal stay outside" },
	{ "pidfile", 0, TEXT("FILE"), .commands = FOR_BOTH, AT(pidfile),
	  .help = "restore writes the root's pid here; the file must not exist" },
	{ "display-stats", 0, FLAG(display_stats), .commands = FOR_BOTH, .help = "print what was done and how long it took" },

	/* check */
	{ "feature", 0, TEXT("NAME"), .commands = FOR_CHECK, AT(feature),
	  .help = "one feature: the exit status is the answer; list: their names" },
	{ "all", 0, FLAG(all), .commands = FOR_CHECK, .help = "every feature, and what comes back of each kind of resource" },
	{ "extra", 0, FLAG(all), .commands = FOR_CHECK, .help = "the same" },
	{ "experimental", 0, FLAG(all), .commands = FOR_CHECK, .help = "the same" },

	/* all */
	{ "log-file", 'o', TEXT("FILE"), .commands = FOR_WORK, AT(log_file), .help = "log to a file in the work directory" },
	{ "verbosity", 'v', OPTION_LEVEL, "LEVEL", .commands = FOR_ALL, AT(verbosity),
	  .help = "log more: 0 nothing, 1 errors, 2 warnings, 3 information, 4 all (2)" },
	{ "config", 0, TEXT("FILE"), OPTION_ALONE, FOR_ALL, AT(config), .help = "read options from a file" },
	{ "no-default-config", 0, OPTION_FLAG, NULL, OPTION_ALONE, FOR_ALL, AT(no_default_config), 1,
	  "don't read /etc/criu/default.conf and ~/.criu/default.conf" },
	{ "help", 'h', OPTION_FLAG, NULL, OPTION_ALONE, FOR_ALL, AT(help), 1, "print this" },
	{ "version", 'V', OPTION_FLAG, NULL, OPTION_ALONE, FOR_ALL, AT(version), 1, "print the version" },
	{ "list-options", 0, OPTION_FLAG, NULL, OPTION_HIDDEN, FOR_ALL, AT(list), 1, NULL },

	/* CRIU's: nothing is lost when ferry passes these over, for it does so anyway, can't need it, or refuses the tree */
	{ "address", 0, TEXT("ADDRESS"), PASSED_OVER },
	{ "allow-uprobes", PASSED_OVER },
	{ "auto-dedup", PASSED_OVER },
	{ "cgroup-dump-controller", 0, TEXT("NAME"), PASSED_OVER },
	{ "cgroup-props", 0, TEXT("TEXT"), PASSED_OVER },
	{ "cgroup-props-file", 0, TEXT("FILE"), PASSED_OVER },
	{ "cgroup-yard", 0, TEXT("DIR"), PASSED_OVER },
	{ "close", 0, TEXT("FD"), PASSED_OVER },
	{ "cpu-cap", 0, MAYBE("CAPS"), PASSED_OVER },
	{ "enable-fs", 0, TEXT("NAMES"), PASSED_OVER },
	{ "evasive-devices", PASSED_OVER },
	{ "ext-unix-sk", 'x', MAYBE("INODE"), PASSED_OVER },
	{ "file-locks", 'l', PASSED_OVER },
	{ "file-validation", 0, TEXT("METHOD"), PASSED_OVER },
	{ "force-irmap", PASSED_OVER },
	{ "freeze-cgroup", 0, TEXT("DIR"), PASSED_OVER },
	{ "ghost-fiemap", PASSED_OVER },
	{ "ghost-limit", 0, TEXT("SIZE"), PASSED_OVER },
	{ "irmap-scan-path", 0, TEXT("PATH"), PASSED_OVER },
	{ "libdir", 'L', TEXT("DIR"), PASSED_OVER },
	{ "link-remap", PASSED_OVER },
	{ "log-pid", PASSED_OVER },
	{ "mntns-compat-mode", PASSED_OVER },
	{ "network-lock", 0, TEXT("METHOD"), PASSED_OVER },
	{ "port", 0, TEXT("PORT"), PASSED_OVER },
	{ "pre-dump-mode", 0, TEXT("MODE"), PASSED_OVER },
	{ "ps-socket", 0, TEXT("FD"), PASSED_OVER },
	{ "skip-file-rwx-check", PASSED_OVER },
	{ "skip-in-flight", PASSED_OVER },
	{ "skip-mnt", 0, TEXT("PATH"), PASSED_OVER },
	{ "status-fd", 0, TEXT("FD"), PASSED_OVER },
	{ "tcp-close", PASSED_OVER },
	{ "tcp-established", PASSED_OVER },
	{ "tls-cacert", 0, TEXT("FILE"), PASSED_OVER },
	{ "tls-cacrl", 0, TEXT("FILE"), PASSED_OVER },
	{ "tls-cert", 0, TEXT("FILE"), PASSED_OVER },
	{ "tls-key", 0, TEXT("FILE"), PASSED_OVER },
	{ "tls-no-cn-verify", PASSED_OVER },
	{ "track-mem", PASSED_OVER },
	{ "unprivileged", PASSED_OVER },
	{ "weak-sysctls", PASSED_OVER },

	/* CRIU's: a dump or a restore without them would not be what was asked for */
	{ "action-script", 0, TEXT("FILE"), REFUSED(FOR_BOTH), .help = "scripts that run between the steps" },
	{ "cgroup-root", 0, TEXT("[CONTROLLER:]PATH"), REFUSED(FOR_BOTH), .help = "control groups" },
	{ "empty-ns", 0, TEXT("NAMESPACE"), REFUSED(FOR_BOTH), .help = "namespaces" },
	{ "ext-mount-map", 'M', TEXT("KEY:VALUE"), REFUSED(FOR_BOTH), .help = "mount namespaces" },
	{ "external", 0, TEXT("RESOURCE"), REFUSED(FOR_BOTH), .help = "external resources" },
	{ "inherit-fd", 0, TEXT("fd[FD]:RESOURCE"), REFUSED(FOR_RESTORE), .help = "files handed in by the caller" },
	{ "join-ns", 'J', TEXT("NS:WHICH"), REFUSED(FOR_RESTORE), .help = "namespaces" },
	{ "lazy-pages", REFUSED(FOR_BOTH), .help = "memory that follows later" },
	{ "lsm-mount-context", 0, TEXT("CONTEXT"), REFUSED(FOR_RESTORE), .help = "security contexts of mounts" },
	{ "lsm-profile", 0, TEXT("TYPE:NAME"), REFUSED(FOR_RESTORE), .help = "security profiles" },
	{ "manage-cgroups", 0, MAYBE("MODE"), REFUSED(FOR_BOTH), .help = "control groups" },
	{ "page-server", REFUSED(FOR_DUMP), .help = "pages sent to another machine" },
	{ "prev-images-dir", 0, TEXT("DIR"), REFUSED(FOR_DUMP), .help = "dumps on top of an earlier one" },
	{ "root", 'r', TEXT("PATH"), REFUSED(FOR_RESTORE), .help = "mount namespaces" },
	{ "stream", REFUSED(FOR_BOTH), .help = "images as a stream" },
	{ "tls", REFUSED(FOR_BOTH), .help = "encrypted connections" },
	{ "veth-pair", 0, TEXT("IN=OUT"), REFUSED(FOR_RESTORE), .help = "network namespaces" },
};

const size_t options_count = ARRAY_LEN(options_table);
