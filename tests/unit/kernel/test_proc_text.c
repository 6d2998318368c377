/* SPDX-License-Identifier: Apache-2.0 */
/* The parsers on canned texts, the hostile ones too. */
#include "cm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/proc_map.h"
#include "kernel/proc_task.h"

#define STAT_TAIL " S 1 42 42 34816 -1 4194304 1 2 3 4 5 6 7 8 -20 -5 3 0 60338 99 418 18446744073709551615 4096 8192 " \
	"140729742222496 0 0 0 0 0 0 0 0 0 17 1 50 2 0 0 0 11 12 13 14 15 16 18446744073709551615 32512\n"

static int parse_stat(const char *text, size_t len, struct proc_stat *st)
{
	/* an exact copy, so that a sanitizer sees one byte too many */
	own_free char *copy = mem_dup(text, len);
	struct err err;

	return proc_stat_parse(copy, len, st, &err);
}

static void stat_fields(void **state)
{
	const char text[] = "42 (cat)" STAT_TAIL;
	struct proc_stat st;

	(void)state;
	assert_int_equal(parse_stat(text, strlen(text), &st), 0);
	assert_int_equal(st.pid, 42);
	assert_string_equal(st.comm, "cat");
	assert_int_equal(st.state, 'S');
	assert_int_equal(st.ppid, 1);
	assert_int_equal(st.tty_nr, 34816);
	assert_int_equal(st.flags, 4194304);
	assert_int_equal(st.priority, -20);
	assert_int_equal(st.nice, -5);
	assert_int_equal(st.num_threads, 3);
	assert_int_equal(st.starttime, 60338);
	assert_int_equal(st.start_code, 4096);
	assert_int_equal(st.end_code, 8192);
	assert_int_equal(st.start_stack, 140729742222496);
	assert_int_equal(st.exit_signal, 17);
	assert_int_equal(st.rt_priority, 50);
	assert_int_equal(st.policy, 2);
	assert_int_equal(st.start_data, 11);
	assert_int_equal(st.start_brk, 13);
	assert_int_equal(st.arg_start, 14);
	assert_int_equal(st.env_start, 16);
	assert_true(st.env_end == UINT64_MAX);
	assert_int_equal(st.exit_code, 32512);
}

static void stat_hostile_names(void **state)
{
	static const char *const names[] = { ") R 1", "a (b) c", "(((", ")))", "x\ny", "", ") R 1 1 1 1 1", "\x01\xff\x80" };
	struct proc_stat st;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		own_free char *text = mem_fmt("7 (%s)" STAT_TAIL, names[i]);

		assert_int_equal(parse_stat(text, strlen(text), &st), 0);
		assert_string_equal(st.comm, names[i]);
		assert_int_equal(st.ppid, 1);
	}
	const char longer[] = "7 (kworker/u8:3-events_unbound)" STAT_TAIL;

	assert_int_equal(parse_stat(longer, strlen(longer), &st), 0);
	assert_string_equal(st.comm, "kworker/u8:3-eve");
}

static void stat_cut_anywhere(void **state)
{
	const char text[] = "42 (cat)" STAT_TAIL;
	size_t full = strlen(text) - strlen("2512\n");  /* from here on the last number is only shorter */
	struct proc_stat st;

	(void)state;
	for (size_t len = 0; len < full; len++)
		assert_int_equal(parse_stat(text, len, &st), -EBADMSG);
}

static void stat_nonsense(void **state)
{
	static const char *const texts[] = {
		"42 cat S 1", "99999999999 (cat)" STAT_TAIL, "-1 (cat)" STAT_TAIL, "42 (cat) S x 42", "42 (cat)", "42 (cat) ", "()",
		"42)cat(" STAT_TAIL, "42 (cat) S 1 99999999999999999999999 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
	};
	struct proc_stat st;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		assert_int_equal(parse_stat(texts[i], strlen(texts[i]), &st), -EBADMSG);
}

static const char status_text[] =
	"Name:\tUid:\\n0 evil\nUmask:\t0027\nState:\tT (stopped)\nTgid:\t10\nNgid:\t0\nPid:\t11\nPPid:\t5\nTracerPid:\t77\n"
	"Uid:\t1\t2\t3\t4294967294\nGid:\t5\t6\t7\t8\nFDSize:\t256\nGroups:\t4 24 4294967295 \nNStgid:\t10\t1\n"
	"NSpid:\t11\t4\t2\nKthread:\t0\nVmPeak:\t    3060 kB\nTHP_enabled:\t0\nThreads:\t9\nSigQ:\t0/96343\n"
	"SigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\nSigBlk:\t8000000000000000\nSigIgn:\t0000000000001000\n"
	"SigCgt:\t00000001800004e8\nCapInh:\t0000000000000001\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000000003\n"
	"CapBnd:\t0000000000000004\nCapAmb:\t0000000000000005\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

static void status_fields(void **state)
{
	struct proc_status st;
	struct err err;

	(void)state;
	assert_int_equal(proc_status_parse(status_text, strlen(status_text), &st, &err), 0);
	assert_int_equal(st.umask, 027);
	assert_int_equal(st.state, 'T');
	assert_int_equal(st.tgid, 10);
	assert_int_equal(st.pid, 11);
	assert_int_equal(st.ppid, 5);
	assert_int_equal(st.tracer_pid, 77);
	assert_int_equal(st.uid[3], 4294967294);
	assert_int_equal(st.gid[0], 5);
	assert_int_equal(st.groups.len, 3);
	assert_int_equal(st.groups.at[2], 4294967295);
	assert_int_equal(st.ns_pid, 2);
	assert_int_equal(st.ns_levels, 3);
	assert_false(st.thp_enabled);
	assert_int_equal(st.threads, 9);
	assert_int_equal(st.sig_pnd, 1);
	assert_int_equal(st.shd_pnd, 2);
	assert_true(st.sig_blk == 1ull << 63);
	assert_int_equal(st.sig_cgt, 0x1800004e8);
	assert_int_equal(st.cap_prm, 0x1fffeffffff);
	assert_int_equal(st.cap_amb, 5);
	assert_int_equal(st.no_new_privs, 1);
	assert_int_equal(st.seccomp, 2);
	assert_int_equal(st.seccomp_filters, 3);
	proc_status_free(&st);
}

static void status_nonsense(void **state)
{
	static const char *const texts[] = {
		"", "Name:", "Name:\tx\nTgid:\t0\nPid:\t1\n", "Umask:\t0022\nTgid:\t1\nPid:\t1\n",
		"Name:\tx\nTgid:\t1\nPid:\t1\nUid:\t1\t2\t3\n", "Name:\tx\nTgid:\t1\nPid:\t1\nUid:\t1\t2\t3\t4294967296\n",
		"Name:\tx\nTgid:\t1\nPid:\t1\nGroups:\t1 2 x\n", "Name:\tx\nTgid:\t1\nPid:\t4294967295\n",
		"Name:\tx\nTgid:\t1\nPid:\t1\nSigBlk:\t10000000000000000\n", "Name:\tx\nTgid:\t1\nPid:\t1\nNSpid:\t\n",
	};
	struct proc_status st;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		assert_int_equal(proc_status_parse(texts[i], strlen(texts[i]), &st, &err), -EBADMSG);
	for (size_t len = 0; len < strlen(status_text); len++) {
		own_free char *copy = mem_dup(status_text, len);

		if (proc_status_parse(copy, len, &st, &err) == 0)
			proc_status_free(&st);
	}
}

static int parse_maps(const char *text, struct proc_maps *maps)
{
	struct err err;

	*maps = (struct proc_maps){ .text = { .at = mem_str(text), .len = strlen(text), .cap = strlen(text) + 1 } };
	return proc_maps_parse(maps, &err);
}

static const char maps_text[] =
	"1000-2000 r--p 00000000 fe:00 247498                     /usr/bin/a b  (deleted)\n"
	"2000-7000 rwxs 7fffffffffff000 00:1f 18446744073709551615 /x\\012y\n"
	"8000-9000 ---p 00000000 00:00 0 \n"
	"9000-a000 rw-p 00000000 00:00 0                          [heap]\n"
	"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]";

static void maps_fields(void **state)
{
	struct proc_maps maps;

	(void)state;
	assert_int_equal(parse_maps(maps_text, &maps), 0);
	assert_int_equal(maps.len, 5);
	assert_int_equal(maps.at[0].prot, PROT_READ);
	assert_false(maps.at[0].shared);
	assert_int_equal(maps.at[0].dev, makedev(0xfe, 0));
	assert_int_equal(maps.at[0].ino, 247498);
	assert_string_equal(maps.at[0].name, "/usr/bin/a b  (deleted)");
	assert_int_equal(maps.at[1].prot, PROT_READ | PROT_WRITE | PROT_EXEC);
	assert_true(maps.at[1].shared);
	assert_int_equal(maps.at[1].pgoff_bytes, 0x7fffffffffff000);
	assert_true(maps.at[1].ino == UINT64_MAX);
	assert_string_equal(maps.at[1].name, "/x\\012y");
	assert_int_equal(maps.at[2].prot, PROT_NONE);
	assert_string_equal(maps.at[2].name, "");
	assert_string_equal(maps.at[3].name, "[heap]");
	assert_string_equal(maps.at[4].name, "[vsyscall]");
	assert_ptr_equal(proc_maps_find(&maps, 0x1000), &maps.at[0]);
	assert_ptr_equal(proc_maps_find(&maps, 0x2000), &maps.at[1]);
	assert_ptr_equal(proc_maps_find(&maps, 0x6fff), &maps.at[1]);
	assert_null(proc_maps_find(&maps, 0x7000));
	assert_null(proc_maps_find(&maps, 0));
	assert_null(proc_maps_find(&maps, UINT64_MAX));
	proc_maps_free(&maps);
}

static void maps_nonsense(void **state)
{
	static const char *const texts[] = {
		"2000-1000 r--p 00000000 fe:00 1 x\n", "1000-1000 r--p 00000000 fe:00 1 x\n", "1001-2000 r--p 00000000 fe:00 1 x\n",
		"1000-2000 r-p 00000000 fe:00 1 x\n", "1000-2000 r--q 00000000 fe:00 1 x\n", "1000-2000 r--p 00000000 fe 1 x\n",
		"1000-2000 r--p 00000000 fe:00 18446744073709551616 x\n", "1000-2000 r--p 00000000 1ffffffff:00 1 x\n",
		"1000-2000 r--p 00000000 fe:00 1x\n", "\n", "garbage", "1000-20000000000000000 r--p 0 0:0 0\n",
		"3000-4000 r--p 00000000 fe:00 1 x\n1000-2000 r--p 00000000 fe:00 1 x\n",
		"3000-5000 r--p 00000000 fe:00 1 x\n4000-6000 r--p 00000000 fe:00 1 x\n",
	};
	struct proc_maps maps;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		assert_int_equal(parse_maps(texts[i], &maps), -EBADMSG);
		proc_maps_free(&maps);
	}
	for (size_t len = 0; len < strlen(maps_text); len++) {
		own_free char *cut = mem_str(maps_text);

		cut[len] = '\0';
		parse_maps(cut, &maps);
		proc_maps_free(&maps);
	}
}

static void smaps_flags_by_address(void **state)
{
	static const char smaps[] =
		"1000-2000 r--p 00000000 fe:00 247498 /usr/bin/VmFlags: sh\nSize: 4 kB\nAnonHugePages: 0 kB\nVmFlags: rd mr me gd \n"
		"2000-6000 rwxs 0 00:1f 1 /x\nVmFlags: rd wr \n"            /* no longer as in maps */
		"7000-7800000 rw-p 0 00:00 0 \nVmFlags: rd \n"               /* new since */
		"9000-a000 rw-p 00000000 00:00 0 [heap]\nSize: 4 kB\nProtectionKey:        3\nVmFlags: rd nr sl zz \n";
	/* "??" is "lf" where old kernels tell that, and nowhere else */
	static const char old[] = "1000-2000 r--p 0 00:00 0 \nVmFlags: rd um lo ?? ac sd \n"
		"9000-a000 rw-p 0 00:00 0 \nVmFlags: rd lo ac ?? \n";
	struct proc_maps maps;
	struct err err;

	(void)state;
	assert_int_equal(parse_maps(maps_text, &maps), 0);
	assert_int_equal(proc_smaps_parse(smaps, strlen(smaps), &maps, &err), 3);
	assert_true(maps.at[0].vm_flags == (VMF_RD | VMF_MR | VMF_ME | VMF_GD));
	assert_true(maps.at[1].vm_flags == 0);
	assert_true(maps.at[2].vm_flags == 0);
	assert_true(maps.at[3].vm_flags == (VMF_RD | VMF_NR | VMF_SL | VMF_OTHER | VMF_KEY));
	assert_int_equal(proc_smaps_parse(old, strlen(old), &maps, &err), 3);
	assert_true(maps.at[0].vm_flags == (VMF_RD | VMF_UM | VMF_LO | VMF_LF | VMF_AC | VMF_SD));
	assert_true(maps.at[3].vm_flags == (VMF_RD | VMF_LO | VMF_AC | VMF_OTHER));
	assert_int_equal(proc_smaps_parse("x", 1, &maps, &err), -EBADMSG);
	assert_int_equal(proc_smaps_parse("VmFlags: abc", 12, &maps, &err), -EBADMSG);
	for (size_t len = 0; len < strlen(smaps); len++) {
		own_free char *copy = mem_dup(smaps, len);

		proc_smaps_parse(copy, len, &maps, &err);
	}
	proc_maps_free(&maps);
}

static void timers_fields(void **state)
{
	static const char text[] =
		"ID: 0\nsignal: 10/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 1\n"
		"ID: 1\nsignal: 64/ffffffffffffffff\nnotify: signal/tid.2635\nClockID: -6\n"
		"ID: 2\nsignal: 0/0000000000000000\nnotify: none/pid.0\nClockID: 0\n"
		"ID: 2147483647\nsignal: 14/0000000000000000\nnotify: thread/pid.5\nClockID: 7\n";
	struct proc_timers timers;
	struct err err;

	(void)state;
	assert_int_equal(proc_timers_parse(text, strlen(text), &timers, &err), 0);
	assert_int_equal(timers.len, 4);
	assert_int_equal(timers.at[0].signal, 10);
	assert_int_equal(timers.at[0].sigval, 0x7fff86e452a8);
	assert_int_equal(timers.at[0].notify, SIGEV_SIGNAL);
	assert_int_equal(timers.at[0].target, 2634);
	assert_int_equal(timers.at[0].clock, 1);
	assert_int_equal(timers.at[3].id, 2147483647);
	assert_int_equal(timers.at[1].notify, SIGEV_THREAD_ID);
	assert_int_equal(timers.at[1].clock, -6);
	assert_int_equal(timers.at[2].notify, SIGEV_NONE);
	assert_int_equal(timers.at[3].notify, SIGEV_THREAD);
	vec_free(&timers);

	assert_int_equal(proc_timers_parse("", 0, &timers, &err), 0);
	assert_int_equal(timers.len, 0);
	for (size_t len = 1; len < strlen(text); len++) {
		own_free char *copy = mem_dup(text, len);

		if (proc_timers_parse(copy, len, &timers, &err) == 0)
			vec_free(&timers);
	}
	assert_int_equal(proc_timers_parse("ID: -1\n", 7, &timers, &err), -EBADMSG);
}

static void limits_fields(void **state)
{
	static const char *const names[] = {
		"Max cpu time", "Max file size", "Max data size", "Max stack size", "Max core file size", "Max resident set",
		"Max processes", "Max open files", "Max locked memory", "Max address space", "Max file locks", "Max pending signals",
		"Max msgqueue size", "Max nice priority", "Max realtime priority", "Max realtime timeout",
	};
	struct rlimit64 limits[PROC_LIMITS];
	char text[4096];
	struct err err;
	size_t len = (size_t)sprintf(text, "Limit                     Soft Limit           Hard Limit           Units     \n");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		len += (size_t)sprintf(text + len, "%-25s %-20zu %-20s bytes\n", names[i], i, i % 2 ? "unlimited" : "18446744073709551614");
	assert_int_equal(proc_limits_parse(text, len, limits, &err), 0);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		assert_int_equal(limits[i].rlim_cur, i);
		assert_true(limits[i].rlim_max == (i % 2 ? RLIM64_INFINITY : UINT64_MAX - 1));
	}
	for (size_t cut = 0; cut < len - 60; cut++)
		assert_int_equal(proc_limits_parse(text, cut, limits, &err), -EBADMSG);
}

static void fdinfo_keys(void **state)
{
	static const char text[] = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1043\nx: eventfd-count: 5\n"
		"eventfd-count:               ff\neventfd-count:  1\nbad: 12z\nhuge:  18446744073709551616\nlast: 7";
	struct err err;
	uint64_t v;

	(void)state;
	assert_int_equal(fdinfo_u64(text, "flags", 8, &v, &err), 0);
	assert_int_equal(v, 02000002);
	assert_int_equal(fdinfo_u64(text, "eventfd-count", 16, &v, &err), 0);
	assert_int_equal(v, 0xff);
	assert_int_equal(fdinfo_u64(text, "last", 10, &v, &err), 0);
	assert_int_equal(v, 7);
	assert_int_equal(fdinfo_u64(text, "fla", 8, &v, &err), -ENODATA);
	assert_int_equal(fdinfo_u64(text, "bad", 10, &v, &err), -EBADMSG);
	assert_int_equal(fdinfo_u64(text, "huge", 10, &v, &err), -EBADMSG);
	assert_true(fdinfo_has(text, "pos"));
	assert_false(fdinfo_has(text, "inotify"));
	assert_false(fdinfo_has("", "pos"));
}

static void fdinfo_lines(void **state)
{
	static const char text[] = "pos:\t0\ntfd:        5 events:       19 data:         ffffffff00000005  pos:0 ino:3d sdev:d\n"
		"tfd:        6 events: 8000001d data:  6\nflags: 02\ntfd:";
	struct fdinfo_line line;
	const char *at = text;
	struct err err;
	uint64_t v;

	(void)state;
	assert_true(fdinfo_next(&at, "tfd:", &line));
	assert_int_equal(fdinfo_line_u64(&line, "", 10, &v, &err), 0);
	assert_int_equal(v, 5);
	assert_int_equal(fdinfo_line_u64(&line, "data", 16, &v, &err), 0);
	assert_int_equal(v, 0xffffffff00000005);
	assert_int_equal(fdinfo_line_u64(&line, "sdev", 16, &v, &err), 0);
	assert_int_equal(v, 0xd);
	assert_int_equal(fdinfo_line_u64(&line, "dev", 16, &v, &err), -ENODATA);
	assert_true(fdinfo_next(&at, "tfd:", &line));
	assert_int_equal(fdinfo_line_u64(&line, "events", 16, &v, &err), 0);
	assert_int_equal(v, 0x8000001d);
	assert_int_equal(fdinfo_line_u64(&line, "ino", 16, &v, &err), -ENODATA);
	assert_true(fdinfo_next(&at, "tfd:", &line));
	assert_int_equal(fdinfo_line_u64(&line, "", 10, &v, &err), -EBADMSG);
	assert_false(fdinfo_next(&at, "tfd:", &line));
}

/* Whatever a byte is turned into, a parser says yes or EBADMSG and reads nothing outside. */
static void any_byte_changed(void **state)
{
	static const char *const texts[] = {
		"42 (cat)" STAT_TAIL, status_text, maps_text,
		"1000-2000 r--p 0 0:0 0 [x]\nVmFlags: rd mr \n", "ID: 0\nsignal: 10/0f\nnotify: signal/pid.2634\nClockID: 1\n",
		"pos:\t0\ntfd: 5 events: 19 data: ff pos:0 ino:3d sdev:d\n",
	};
	static const char bytes[] = { 0, '\n', ' ', ')', '-', ':', '9', 'f', (char)0xff };

	(void)state;
	for (size_t t = 0; t < ARRAY_LEN(texts); t++) {
		for (size_t i = 0; i < strlen(texts[t]) * ARRAY_LEN(bytes); i++) {
			size_t len = strlen(texts[t]);
			own_free char *text = mem_str(texts[t]);
			struct proc_maps maps = { .text = { .at = mem_dup(text, len + 1), .len = len, .cap = len + 1 } };
			struct proc_timers timers = { 0 };
			struct proc_status status = { 0 };
			struct fdinfo_line line;
			struct proc_stat st;
			struct err err;
			uint64_t v;

			text[i / ARRAY_LEN(bytes)] = maps.text.at[i / ARRAY_LEN(bytes)] = bytes[i % ARRAY_LEN(bytes)];
			parse_stat(text, len, &st);
			proc_status_parse(text, len, &status, &err);
			proc_status_free(&status);
			proc_timers_parse(text, len, &timers, &err);
			vec_free(&timers);
			proc_maps_parse(&maps, &err);
			proc_smaps_parse(text, len, &maps, &err);
			proc_maps_free(&maps);
			for (const char *at = text; fdinfo_next(&at, "tfd:", &line);)
				fdinfo_line_u64(&line, "sdev", 16, &v, &err);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stat_fields), cmocka_unit_test(stat_hostile_names), cmocka_unit_test(stat_cut_anywhere),
		cmocka_unit_test(stat_nonsense), cmocka_unit_test(status_fields), cmocka_unit_test(status_nonsense),
		cmocka_unit_test(maps_fields), cmocka_unit_test(maps_nonsense), cmocka_unit_test(smaps_flags_by_address),
		cmocka_unit_test(timers_fields), cmocka_unit_test(limits_fields), cmocka_unit_test(fdinfo_keys),
		cmocka_unit_test(fdinfo_lines), cmocka_unit_test(any_byte_changed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
