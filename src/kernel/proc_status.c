/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "base/own.h"
#include "kernel/proc_task.h"
#include "kernel/scan.h"

enum value_kind { ONE_U32, ONE_U64, ONE_PID, ONE_BOOL, FOUR_U32, GROUPS, NS_PIDS, LETTER };

struct line_rule {
	const char *key;
	uint8_t base, kind;
	uint16_t at;                    /* offset in struct proc_status */
};

#define RULE(text, field, number_base, value_kind)                                            \
	{ .key = text ":", .base = number_base, .kind = value_kind,  \
	  .at = offsetof(struct proc_status, field) }

/* In the kernel's order, so that the search goes on where it found the last one. */
static const struct line_rule rules[] = {
	RULE("Umask", umask, 8, ONE_U32),
	RULE("State", state, 0, LETTER),
	RULE("Tgid", tgid, 10, ONE_PID),
	RULE("Pid", pid, 10, ONE_PID),
	RULE("PPid", ppid, 10, ONE_PID),
	RULE("TracerPid", tracer_pid, 10, ONE_PID),
	RULE("Uid", uid, 10, FOUR_U32),
	RULE("Gid", gid, 10, FOUR_U32),
	RULE("Groups", groups, 10, GROUPS),
	RULE("NSpid", ns_pid, 10, NS_PIDS),
	RULE("Kthread", kthread, 10, ONE_BOOL),
	RULE("THP_enabled", thp_enabled, 10, ONE_BOOL),
	RULE("Threads", threads, 10, ONE_U32),
	RULE("SigPnd", sig_pnd, 16, ONE_U64),
	RULE("ShdPnd", shd_pnd, 16, ONE_U64),
	RULE("SigBlk", sig_blk, 16, ONE_U64),
	RULE("SigIgn", sig_ign, 16, ONE_U64),
	RULE("SigCgt", sig_cgt, 16, ONE_U64),
	RULE("CapInh", cap_inh, 16, ONE_U64),
	RULE("CapPrm", cap_prm, 16, ONE_U64),
	RULE("CapEff", cap_eff, 16, ONE_U64),
	RULE("CapBnd", cap_bnd, 16, ONE_U64),
	RULE("CapAmb", cap_amb, 16, ONE_U64),
	RULE("NoNewPrivs", no_new_privs, 10, ONE_U32),
	RULE("Seccomp", seccomp, 10, ONE_U32),
	RULE("Seccomp_filters", seccomp_filters, 10, ONE_U32),
};

static bool scan_u32(struct scan *s, unsigned int base, uint32_t *ret_value)
{
	uint64_t v;

	scan_blanks(s);
	if (!scan_u64(s, base, &v) || v > UINT32_MAX)
		return false;
	*ret_value = (uint32_t)v;
	return true;
}

static bool scan_groups(struct scan *s, struct proc_status *st)
{
	uint32_t gid;

	for (scan_blanks(s); s->at < s->end; scan_blanks(s)) {
		if (!scan_u32(s, 10, &gid))
			return false;
		vec_push(&st->groups, gid);
	}
	return true;
}

static bool scan_ns_pids(struct scan *s, struct proc_status *st)
{
	uint32_t pid;

	for (scan_blanks(s); s->at < s->end; scan_blanks(s)) {
		if (!scan_u32(s, 10, &pid) || pid > INT_MAX)
			return false;
		st->ns_pid = (pid_t)pid;
		st->ns_levels++;
	}
	return st->ns_levels > 0;
}

static bool scan_value(struct scan *s, const struct line_rule *rule, struct proc_status *st)
{
	void *to = (char *)st + rule->at;
	uint32_t v;

	scan_blanks(s);
	switch ((enum value_kind)rule->kind) {
	case ONE_U32:
		return scan_u32(s, rule->base, to);
	case ONE_U64:
		return scan_u64(s, rule->base, to);
	case ONE_PID:
		return scan_u32(s, rule->base, to) && *(pid_t *)to >= 0;
	case ONE_BOOL:
		if (!scan_u32(s, rule->base, &v))
			return false;
		*(bool *)to = v != 0;
		return true;
	case FOUR_U32:
		for (int i = 0; i < 4; i++)
			if (!scan_u32(s, rule->base, (uint32_t *)to + i))
				return false;
		return true;
	case GROUPS:
		return scan_groups(s, st);
	case NS_PIDS:
		return scan_ns_pids(s, st);
	case LETTER:
		if (s->at >= s->end)
			return false;
		*(char *)to = *s->at++;
		return true;
	}
	return false;
}

/* The rule of a line, looked for from *next on; each rule is used once, so a line can't come twice. */
static const struct line_rule *rule_of(struct scan *line, size_t *next)
{
	for (size_t i = *next; i < ARRAY_LEN(rules); i++) {
		if (scan_text(line, rules[i].key)) {
			*next = i + 1;
			return &rules[i];
		}
	}
	return NULL;
}

static bool status_scan(struct scan s, struct proc_status *st)
{
	const struct line_rule *rule;
	struct scan line;
	size_t next = 0;

	if (!scan_line(&s, &line) || !scan_text(&line, "Name:"))
		return false;
	while (scan_line(&s, &line)) {
		rule = rule_of(&line, &next);
		if (rule && !scan_value(&line, rule, st))
			return false;
	}
	return st->tgid > 0 && st->pid > 0;
}

int proc_status_parse(const char *text, size_t len, struct proc_status *ret_status, struct err *err)
{
	struct proc_status st = { .thp_enabled = true };

	if (!status_scan(scan_of(text, len), &st)) {
		proc_status_free(&st);
		return err_set(err, EBADMSG, "status of a task is not understood");
	}
	*ret_status = st;
	return 0;
}

void proc_status_free(struct proc_status *status)
{
	vec_free(&status->groups);
}

int proc_status(pid_t pid, pid_t tid, struct proc_status *ret_status, struct err *err)
{
	struct proc_text text = { 0 };
	char name[64];
	int r;

	snprintf(name, sizeof(name), tid ? "task/%d/status" : "status", tid);
	r = proc_read_all(pid, name, &text, err);
	if (r == 0)
		r = proc_status_parse(text.at, text.len, ret_status, err);
	vec_free(&text);
	return r;
}
