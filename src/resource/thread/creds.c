/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creds - who a thread is and what it may: ids, groups, capabilities,
 * securebits, no_new_privs; and its parent's-death signal, which every change
 * of these clears.
 *
 * Seen in:  /proc/PID/task/TID/status; securebits and the signal only inside.
 * Made by:  the calls below, in an order in which each is still allowed:
 *           ids change with SECBIT_NO_SETUID_FIXUP so that capabilities stay,
 *           then securebits, and the final capabilities last.
 * Image:    thread_core.creds, thread_core.pdeath_sig.
 */
#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc_task.h"
#include "resource/resource.h"

#define GROUPS_MAX      65536u
#define CAPS            64u             /* bits of a set; the kernel knows 41 to date */
#define SECUREBITS_ALL  0xffffu

/* ---- see ---- */

static int see_ids(const struct proc_status *st, struct creds *c, struct err *err)
{
	if (st->seccomp != 0)
		return err_set(err, EOPNOTSUPP, "thread %d runs under seccomp", st->pid);
	c->uid = st->uid[0], c->euid = st->uid[1], c->suid = st->uid[2], c->fsuid = st->uid[3];
	c->gid = st->gid[0], c->egid = st->gid[1], c->sgid = st->gid[2], c->fsgid = st->gid[3];
	c->cap_inh = st->cap_inh;
	c->cap_prm = st->cap_prm;
	c->cap_eff = st->cap_eff;
	c->cap_bnd = st->cap_bnd;
	c->cap_amb = st->cap_amb;
	c->no_new_privs = st->no_new_privs;
	for (size_t i = 0; i < st->groups.len; i++)
		vec_push(&c->groups, st->groups.at[i]);
	return 0;
}

static int ask_securebits(struct subject *s, uint32_t *ret_bits, struct err *err)
{
	int64_t got;
	int r = view_ask(s, SYS_prctl, (uint64_t[6]){ PR_GET_SECUREBITS }, &got, err);

	if (r == 0 && got < 0)
		r = err_set(err, (int)-got, "ask thread %d for its securebits", s->tid);
	if (r == 0)
		*ret_bits = (uint32_t)got;
	return r;
}

static int ask_pdeath(struct subject *s, uint32_t *ret_signal, struct err *err)
{
	int64_t got;
	int r = view_ask(s, SYS_prctl, (uint64_t[6]){ PR_GET_PDEATHSIG, s->out }, &got, err);

	if (r == 0 && got < 0)
		r = err_set(err, (int)-got, "ask thread %d for its parent's-death signal", s->tid);
	return r < 0 ? r : question_read(s, 0, ret_signal, sizeof(*ret_signal), err);
}

static int creds_see(const struct task_view *v, struct subject *s, struct thread *t, struct err *err)
{
	struct proc_status own = { 0 };
	int r;

	if (s == v->subject) {
		r = see_ids(v->status, &t->creds, err);
	} else {
		r = proc_status(v->stat->pid, s->tid, &own, err);
		if (r >= 0)
			r = see_ids(&own, &t->creds, err);
		proc_status_free(&own);
	}
	if (r < 0)
		return r;
	if (!s->open) {
		log_warn("thread %d can't be asked: securebits and parent's-death signal are taken to be 0", s->tid);
		return 0;
	}
	r = ask_securebits(s, &t->creds.securebits, err);
	return r < 0 ? r : ask_pdeath(s, &t->pdeath_signal, err);
}

/* ---- save, load ---- */

static void save_caps(uint64_t set, size_t *ret_n, uint32_t **ret_words)
{
	const uint32_t words[2] = { (uint32_t)set, (uint32_t)(set >> 32) };

	*ret_n = 2;
	*ret_words = mem_dup(words, sizeof(words));
}

static void creds_save(const struct thread *t, CoreEntry *core)
{
	const struct creds *c = &t->creds;
	CredsEntry *rec = mem_new(sizeof(*rec));

	creds_entry__init(rec);
	rec->uid = c->uid, rec->euid = c->euid, rec->suid = c->suid, rec->fsuid = c->fsuid;
	rec->gid = c->gid, rec->egid = c->egid, rec->sgid = c->sgid, rec->fsgid = c->fsgid;
	rec->secbits = c->securebits;
	save_caps(c->cap_inh, &rec->n_cap_inh, &rec->cap_inh);
	save_caps(c->cap_prm, &rec->n_cap_prm, &rec->cap_prm);
	save_caps(c->cap_eff, &rec->n_cap_eff, &rec->cap_eff);
	save_caps(c->cap_bnd, &rec->n_cap_bnd, &rec->cap_bnd);
	if (c->cap_amb)
		save_caps(c->cap_amb, &rec->n_cap_amb, &rec->cap_amb);
	rec->has_no_new_privs = c->no_new_privs;
	rec->no_new_privs = c->no_new_privs;
	rec->n_groups = c->groups.len;
	if (c->groups.len > 0)
		rec->groups = mem_dup(c->groups.at, c->groups.len * sizeof(uint32_t));
	core->thread_core->creds = rec;
	core->thread_core->has_pdeath_sig = t->pdeath_signal != 0;
	core->thread_core->pdeath_sig = t->pdeath_signal;
}

static int load_caps(const char *name, size_t n, const uint32_t *words, uint64_t *ret_set, struct err *err)
{
	if (n > 2)
		return err_set(err, EBADMSG, "%s capabilities of %zu words", name, n);
	*ret_set = (n > 0 ? words[0] : 0) | (n > 1 ? (uint64_t)words[1] << 32 : 0);
	return 0;
}

static int load_sets(const CredsEntry *rec, struct creds *c, struct err *err)
{
	int r = load_caps("inheritable", rec->n_cap_inh, rec->cap_inh, &c->cap_inh, err);

	if (r == 0)
		r = load_caps("permitted", rec->n_cap_prm, rec->cap_prm, &c->cap_prm, err);
	if (r == 0)
		r = load_caps("effective", rec->n_cap_eff, rec->cap_eff, &c->cap_eff, err);
	if (r == 0)
		r = load_caps("bounding", rec->n_cap_bnd, rec->cap_bnd, &c->cap_bnd, err);
	if (r == 0)
		r = load_caps("ambient", rec->n_cap_amb, rec->cap_amb, &c->cap_amb, err);
	/* true of every set that a kernel ever had */
	if (r == 0 && ((c->cap_eff & ~c->cap_prm) || (c->cap_amb & ~(c->cap_prm & c->cap_inh))))
		r = err_set(err, EBADMSG, "effective or ambient capabilities exceed the permitted ones");
	return r;
}

static int check_ids(const CredsEntry *rec, struct err *err)
{
	const uint32_t ids[] = { rec->uid, rec->euid, rec->suid, rec->fsuid, rec->gid, rec->egid, rec->sgid, rec->fsgid };

	for (size_t i = 0; i < ARRAY_LEN(ids); i++)
		if (ids[i] == UINT32_MAX)
			return err_set(err, EBADMSG, "credentials with an id of -1");
	if (rec->n_groups > GROUPS_MAX)
		return err_set(err, EBADMSG, "credentials with %zu groups", rec->n_groups);
	for (size_t i = 0; i < rec->n_groups; i++)
		if (rec->groups[i] == UINT32_MAX)
			return err_set(err, EBADMSG, "credentials with a group of -1");
	if (rec->secbits & ~SECUREBITS_ALL)
		return err_set(err, EBADMSG, "securebits %#x", rec->secbits);
	return 0;
}

static int creds_load(const CoreEntry *core, struct thread *t, struct err *err)
{
	const ThreadCoreEntry *thread = core->thread_core;
	const CredsEntry *rec = thread->creds;
	struct creds *c = &t->creds;
	int r;

	if (!rec)
		return err_set(err, EBADMSG, "the thread has no credentials");
	if ((thread->has_seccomp_mode && thread->seccomp_mode != SECCOMP_MODE__disabled) ||
	    (core->tc && core->tc->has_old_seccomp_mode && core->tc->old_seccomp_mode != SECCOMP_MODE__disabled))
		return err_set(err, EOPNOTSUPP, "the thread ran under seccomp");
	if (thread->pdeath_sig > SIGNALS)
		return err_set(err, EBADMSG, "parent's-death signal %u", thread->pdeath_sig);
	r = check_ids(rec, err);
	if (r == 0)
		r = load_sets(rec, c, err);
	if (r < 0)
		return r;
	c->uid = rec->uid, c->euid = rec->euid, c->suid = rec->suid, c->fsuid = rec->fsuid;
	c->gid = rec->gid, c->egid = rec->egid, c->sgid = rec->sgid, c->fsgid = rec->fsgid;
	c->securebits = rec->secbits;
	c->no_new_privs = rec->has_no_new_privs && rec->no_new_privs;
	for (size_t i = 0; i < rec->n_groups; i++)
		vec_push(&c->groups, rec->groups[i]);
	t->pdeath_signal = thread->has_pdeath_sig ? thread->pdeath_sig : 0;
	return 0;
}

/* ---- make ---- */

/* What capset() takes. */
struct capset {
	struct __user_cap_header_struct head;
	struct __user_cap_data_struct data[2];
};

static struct capset capset_of(uint64_t eff, uint64_t prm, uint64_t inh)
{
	return (struct capset){
		.head = { .version = _LINUX_CAPABILITY_VERSION_3 },
		.data = { { (uint32_t)eff, (uint32_t)prm, (uint32_t)inh },
			  { (uint32_t)(eff >> 32), (uint32_t)(prm >> 32), (uint32_t)(inh >> 32) } },
	};
}

/* What ferry has is what a vessel starts with. */
struct rights { uint64_t eff, prm, inh, bnd; };

static int own_rights(struct rights *ret_rights, struct err *err)
{
	static _Thread_local struct rights have;        /* asked once: what ferry has does not change */
	struct capset c = capset_of(0, 0, 0);

	if (have.bnd) {
		*ret_rights = have;
		return 0;
	}

	if (syscall(SYS_capget, &c.head, c.data) < 0)
		return err_sys(err, "read our own capabilities");
	have.eff = c.data[0].effective | (uint64_t)c.data[1].effective << 32;
	have.prm = c.data[0].permitted | (uint64_t)c.data[1].permitted << 32;
	have.inh = c.data[0].inheritable | (uint64_t)c.data[1].inheritable << 32;
	for (unsigned int cap = 0; cap < CAPS; cap++) {
		int is = prctl(PR_CAPBSET_READ, cap);

		if (is < 0)
			break;          /* past the last one of this kernel */
		have.bnd |= (uint64_t)(is == 1) << cap;
	}
	*ret_rights = have;
	return 0;
}

static const char *cap_name(unsigned int cap)
{
	static const char *const names[] = {
		"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
		"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
		"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
		"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
		"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
		"CHECKPOINT_RESTORE",
	};

	return cap < ARRAY_LEN(names) ? names[cap] : "(unknown)";
}

static int check_rights(const struct thread *t, const struct rights *have, struct err *err)
{
	uint64_t missing = (t->creds.cap_prm & ~have->prm) | (t->creds.cap_inh & ~(have->inh | have->bnd));

	if (missing)
		return err_set(err, EPERM, "thread %d had capability CAP_%s, which we don't have", t->tid,
			       cap_name((unsigned int)__builtin_ctzll(missing)));
	if (have->bnd && (t->creds.cap_bnd & ~have->bnd & (~0ull >> __builtin_clzll(have->bnd))))
		log_info("thread %d gets our narrower bounding set", t->tid);
	return 0;
}

static void call_prctl(struct script *s, const char *name, uint64_t option, uint64_t a, uint64_t b)
{
	script_call_as(s, OP_WANT_ZERO, SYS_prctl, name, option, a, b);
}

static void make_ids(const struct creds *c, struct script *s)
{
	script_call(s, OP_WANT_ZERO, SYS_setgroups, c->groups.len,
		    c->groups.len ? script_data(s, c->groups.at, c->groups.len * sizeof(uint32_t)) : 0);
	script_call(s, OP_WANT_ZERO, SYS_setresgid, c->gid, c->egid, c->sgid);
	script_call(s, OP_WANT_ZERO, SYS_setresuid, c->uid, c->euid, c->suid);
	/* these never fail, so they are asked what they did */
	if (c->fsgid != c->egid) {
		script_call(s, OP_WANT_ANY, SYS_setfsgid, c->fsgid);
		script_call_value(s, c->fsgid, SYS_setfsgid, "setfsgid", UINT32_MAX);
	}
	if (c->fsuid != c->euid) {
		script_call(s, OP_WANT_ANY, SYS_setfsuid, c->fsuid);
		script_call_value(s, c->fsuid, SYS_setfsuid, "setfsuid", UINT32_MAX);
	}
}

static void make_caps(const struct creds *c, struct script *s)
{
	struct capset final = capset_of(c->cap_eff, c->cap_prm, c->cap_inh);
	taddr at = script_data(s, &final, sizeof(final));

	for (unsigned int cap = 0; cap < CAPS; cap++)
		if (c->cap_amb >> cap & 1)
			call_prctl(s, "raise ambient capability", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap);
	call_prctl(s, "set securebits", PR_SET_SECUREBITS, c->securebits, 0);
	script_call(s, OP_WANT_ZERO, SYS_capset, at, at + sizeof(final.head));
}

static int creds_make(const struct task *task, const struct thread *t, struct script *s, struct err *err)
{
	const struct creds *c = &t->creds;
	struct rights have;
	int r;

	(void)task;
	r = own_rights(&have, err);
	if (r == 0)
		r = check_rights(t, &have, err);
	if (r < 0)
		return r;
	if (!script_fits(s, 0, c->groups.len * sizeof(uint32_t) + 4 * sizeof(struct capset)))
		return err_set(err, EOPNOTSUPP, "thread %d is in %zu groups", t->tid, c->groups.len);
	if (c->cap_inh != have.inh) {
		/* while the bounding set has them all */
		struct capset all = capset_of(have.eff, have.prm, c->cap_inh);
		taddr at = script_data(s, &all, sizeof(all));

		script_call(s, OP_WANT_ZERO, SYS_capset, at, at + sizeof(all.head));
	}
	for (unsigned int cap = 0; cap < CAPS; cap++)
		if (have.bnd >> cap & 1 && !(c->cap_bnd >> cap & 1))
			call_prctl(s, "drop capability from the bounding set", PR_CAPBSET_DROP, cap, 0);
	call_prctl(s, "set securebits", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0);
	call_prctl(s, "clear ambient capabilities", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0);
	make_ids(c, s);
	make_caps(c, s);
	if (c->no_new_privs)
		call_prctl(s, "set no_new_privs", PR_SET_NO_NEW_PRIVS, 1, 0);
	if (t->pdeath_signal)
		call_prctl(s, "set parent's-death signal", PR_SET_PDEATHSIG, t->pdeath_signal, 0);
	return 0;
}

const struct thread_kind creds_kind = {
	.name = "creds",
	.lost = "security labels; seccomp: refused",
	.see = creds_see,
	.save = creds_save,
	.load = creds_load,
	.make = creds_make,
};
