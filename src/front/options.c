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
#define FOR_DUMPS   (FOR_DUMP | FOR_PREDUMP)
#define FOR_BOTH    (FOR_DUMPS | FOR_RESTORE)
#define FOR_CHAINS  (FOR_DEDUP | FOR_SQUASH)
#define FOR_WORK    (FOR_BOTH | FOR_RESUME | FOR_KILL | FOR_DEDUP | FOR_MIGRATE | FOR_RECEIVE | FOR_PAGE_SERVER)
#define FOR_SERVER  (FOR_DUMPS | FOR_PAGE_SERVER)
#define FOR_WIRE    (FOR_SERVER | FOR_MIGRATE | FOR_RECEIVE)

const struct option options_table[] = {
	/* which tasks, which images */
	{ "tree", 't', OPTION_NUMBER, "PID", .commands = FOR_DUMPS | FOR_RESUME | FOR_KILL | FOR_MIGRATE, AT(tree), .value = 1,
	  .help = "the process at the root of the tree" },
	{ "images-dir", 'D', TEXT("DIR"), .commands = FOR_BOTH | FOR_CHAINS | FOR_SHOW | FOR_PACK | FOR_VERIFY | FOR_PAGE_SERVER, AT(images_dir),
	  .help = "where the images are (the current directory)" },
	{ "work-dir", 'W', TEXT("DIR"), .commands = FOR_BOTH | FOR_PAGE_SERVER | FOR_MIGRATE | FOR_RECEIVE, AT(work_dir),
	  .help = "where log, pidfile and statistics go (the images' directory)" },

	/* dump */
	{ "leave-running", 'R', OPTION_FLAG, .commands = FOR_DUMP, AT(then), .value = DUMP_THEN_RUN,
	  .help = "let the tasks run on after the dump" },
	{ "leave-stopped", 's', OPTION_FLAG, .commands = FOR_DUMP | FOR_MIGRATE, AT(then), .value = DUMP_THEN_STOP,
	  .help = "leave the tasks stopped after the dump (see ferry resume, ferry kill)" },
	{ "keep-source", 0, OPTION_FLAG, .commands = FOR_MIGRATE, AT(then), .value = DUMP_THEN_STOP,
	  .help = "the same as --leave-stopped" },
	{ "background", 0, OPTION_FLAG, .commands = FOR_DUMP, AT(background), .value = BACKGROUND_ONLY,
	  .help = "with -R: the tasks stop for a moment only, and are copied while they run" },
	{ "background-or-stop", 0, OPTION_FLAG, .commands = FOR_DUMP, AT(background), .value = BACKGROUND_OR_STOP,
	  .help = "the same; where that can't be, they stand still as without it" },
	{ "timeout", 0, OPTION_NUMBER, "SECONDS", .commands = FOR_DUMPS | FOR_MIGRATE, AT(timeout_s), .value = 1,
	  .help = "give up when the tasks don't stand still by then (10)" },
	{ "track-mem", 0, FLAG(track_mem), .commands = FOR_DUMP,
	  .help = "note from now on what the tasks change, for the next dump" },
	{ "prev-images-dir", 0, TEXT("DIR"), .commands = FOR_SERVER, AT(prev_images_dir),
	  .help = "dump only what changed since the dump in DIR (relative to the images' directory)" },
	{ "tracker", 0, TEXT("NAME"), .commands = FOR_DUMPS, AT(tracker),
	  .help = "how changes are found: scan, soft-dirty, none (the best that this kernel has)" },

	/* restore */
	{ "restore-detached", 'd', FLAG(detached), .commands = FOR_RESTORE | FOR_RECEIVE, .help = "return when the tasks run" },
	{ "restore-sibling", 'S', FLAG(sibling), .commands = FOR_RESTORE,
	  .help = "make the root a child of ferry's parent (with -d)" },
	{ "exec-cmd", 0, FLAG(exec_cmd), .commands = FOR_RESTORE,
	  .help = "then become the command that follows --, as the root's parent" },
	{ "dry-run", 0, FLAG(dry_run), .commands = FOR_RESTORE | FOR_MIGRATE, .help = "read and check the images, make nothing; all but the switch" },
	{ "no-verify", 0, FLAG(no_verify), .commands = FOR_RESTORE,
	  .help = "restore what is there, whatever its checksums say: of images, and of pages" },

	/* squash */
	{ "output", 'o', TEXT("DIR"), .commands = FOR_SQUASH, AT(output), .help = "the new directory: missing, or empty" },

	/* both */
	{ "shell-job", 'j', FLAG(shell_job), .commands = FOR_BOTH | FOR_MIGRATE | FOR_RECEIVE,
	  .help = "the tasks are a job of a shell: its session and terminal stay outside" },
	{ "auto-dedup", 0, FLAG(auto_dedup), .commands = FOR_BOTH | FOR_PAGE_SERVER,
	  .help = "then give up what older dumps have of the same pages; after a restore, all of them" },
	{ "pidfile", 0, TEXT("FILE"), .commands = FOR_BOTH | FOR_PAGE_SERVER, AT(pidfile),
	  .help = "restore writes the root's pid here, page-server its own; the file must not exist" },
	{ "display-stats", 0, FLAG(display_stats), .commands = FOR_BOTH, .help = "print what was done and how long it took" },

	/* streams */
	{ "stream", 0, FLAG(stream), .commands = FOR_DUMP | FOR_RESTORE,
	  .help = "the images are one stream: dump writes it to its standard output, restore reads its standard input" },
	{ "compress", 0, TEXT("HOW"), .commands = FOR_DUMP | FOR_PACK | FOR_MIGRATE, AT(compress),
	  .help = "pages of a stream: none, lz4, zstd, zstd:LEVEL, auto (none)" },

	/* migration */
	{ "listen", 0, TEXT("HOST:PORT"), .commands = FOR_RECEIVE, AT(listen), .help = "take a migration from the network" },
	{ "unix", 0, TEXT("PATH"), .commands = FOR_RECEIVE, AT(unix_path), .help = "take it on a unix socket" },
	{ "once", 0, FLAG(once), .commands = FOR_RECEIVE,
	  .help = "take one migration and end (as it does); --no-once: one after another" },
	{ "exec-after", 0, TEXT("CMD"), .commands = FOR_RECEIVE, AT(exec_after),
	  .help = "a shell command to run when the tasks run; FERRY_ROOT_PID is the root" },
	{ "stdio", 0, FLAG(stdio), .commands = FOR_RECEIVE, .help = "take it on standard input and output, as ssh runs it" },
	{ "check", 0, FLAG(check), .commands = FOR_MIGRATE, .help = "only tell all that is in the way, here and there" },
	{ "sync", 0, TEXT("DIR"), .commands = FOR_MIGRATE, AT(sync),
	  .help = "bring this directory along by rsync: while the tasks run, and what is new when they stand" },
	{ "max-downtime", 0, OPTION_NUMBER, "MS", .commands = FOR_MIGRATE, AT(max_downtime_ms), .value = 1,
	  .help = "switch when it would take so many milliseconds (100)" },
	{ "max-rounds", 0, OPTION_NUMBER, "N", .commands = FOR_MIGRATE, AT(max_rounds), .value = 1, .help = "no more rounds than that (30)" },
	{ "max-time", 0, OPTION_NUMBER, "SECONDS", .commands = FOR_MIGRATE, AT(max_time_s), .value = 1, .help = "no rounds after that" },
	{ "on-no-convergence", 0, TEXT("WHAT"), .commands = FOR_MIGRATE, AT(on_no_convergence),
	  .help = "when rounds don't help any more: switch, abort, throttle (switch)" },
	{ "channels", 0, OPTION_NUMBER, "N", .commands = FOR_MIGRATE, AT(channels), .value = 1,
	  .help = "so many connections beside the first carry what is sent (tcp://, tls://)" },
	{ "bandwidth", 0, TEXT("BYTES"), .commands = FOR_MIGRATE, AT(bandwidth),
	  .help = "a second, at most, in the rounds; with K, M or G, which are powers of 1000" },

	/* pages over a connection */
	{ "page-server", 0, FLAG(page_server), .commands = FOR_DUMPS,
	  .help = "send the pages to a page server (--address, --port), and keep none here" },
	{ "address", 0, TEXT("HOST"), .commands = FOR_SERVER, AT(address), .help = "of the page server (127.0.0.1)" },
	{ "port", 0, OPTION_NUMBER, "PORT", .commands = FOR_SERVER, AT(port), .value = 0,
	  .help = "of the page server; itself it takes a free one where none is given, and tells which" },
	{ "ps-socket", 0, OPTION_NUMBER, "FD", .commands = FOR_SERVER | FOR_RECEIVE, AT(ps_socket), .value = 0,
	  .help = "a socket that is connected already, to be used instead" },
	{ "peer-timeout", 0, OPTION_NUMBER, "SECONDS", .commands = FOR_WIRE, AT(peer_timeout_s), .value = 1,
	  .help = "give up the other side when it sends or takes nothing for so long (30)" },
	{ "daemon", 'd', FLAG(daemon), .commands = FOR_PAGE_SERVER,
	  .help = "return when a source can connect, and serve in the background" },
	{ "status-fd", 0, OPTION_NUMBER, "FD", .commands = FOR_PAGE_SERVER, AT(status_fd), .value = 0,
	  .help = "write a zero byte to this descriptor when a source can connect, and close it" },
	{ "allow-plaintext", 0, FLAG(allow_plaintext), .commands = FOR_PAGE_SERVER | FOR_MIGRATE | FOR_RECEIVE,
	  .help = "take pages from other machines without --tls" },
	{ "tls", 0, FLAG(tls), .commands = FOR_WIRE, .help = "encrypt the connection; both sides show certificates" },
	{ "tls-cacert", 0, TEXT("FILE"), .commands = FOR_WIRE, AT(tls_cacert),
	  .help = "who signs certificates (/etc/pki/CA/cacert.pem)" },
	{ "tls-cacrl", 0, TEXT("FILE"), .commands = FOR_WIRE, AT(tls_cacrl),
	  .help = "which ones are revoked (/etc/pki/CA/cacrl.pem, where it is there)" },
	{ "tls-cert", 0, TEXT("FILE"), .commands = FOR_WIRE, AT(tls_cert), .help = "our certificate (/etc/pki/criu/cert.pem)" },
	{ "tls-key", 0, TEXT("FILE"), .commands = FOR_WIRE, AT(tls_key), .help = "and its key (/etc/pki/criu/private/key.pem)" },
	{ "tls-psk", 0, TEXT("FILE"), .commands = FOR_MIGRATE | FOR_RECEIVE, AT(tls_psk),
	  .help = "encrypt, and both sides show that they have this file, instead of certificates" },
	{ "tls-no-cn-verify", 0, FLAG(tls_no_cn_verify), .commands = FOR_DUMPS,
	  .help = "take any certificate that is signed, whoever's it is" },

	/* check */
	{ "feature", 0, TEXT("NAME"), .commands = FOR_CHECK, AT(feature),
	  .help = "one feature: the exit status is the answer; list: their names" },
	{ "all", 0, FLAG(all), .commands = FOR_CHECK, .help = "every feature, and what comes back of each kind of resource" },
	{ "extra", 0, FLAG(all), .commands = FOR_CHECK, .help = "the same" },
	{ "experimental", 0, FLAG(all), .commands = FOR_CHECK, .help = "the same" },

	/* all */
	{ "progress", 0, TEXT("json[:FD]"), .commands = FOR_BOTH | FOR_MIGRATE | FOR_SQUASH | FOR_PACK | FOR_UNPACK | FOR_VERIFY |
					FOR_PAGE_SERVER, AT(progress),
	  .help = "tell how far it is as JSON, an event a line, on stderr or the descriptor" },
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
	{ "allow-uprobes", PASSED_OVER },
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
	{ "pre-dump-mode", 0, TEXT("MODE"), PASSED_OVER },
	{ "skip-file-rwx-check", PASSED_OVER },
	{ "skip-in-flight", PASSED_OVER },
	{ "skip-mnt", 0, TEXT("PATH"), PASSED_OVER },
	{ "tcp-close", PASSED_OVER },
	{ "tcp-established", PASSED_OVER },
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
	{ "root", 'r', TEXT("PATH"), REFUSED(FOR_RESTORE), .help = "mount namespaces" },
	{ "veth-pair", 0, TEXT("IN=OUT"), REFUSED(FOR_RESTORE), .help = "network namespaces" },
};

const size_t options_count = ARRAY_LEN(options_table);
