/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a task and a thread are, apart from memory and files: credentials,
 * limits, scheduling, names, directories, prctl values. A family of tasks,
 * each with its own settings, is described as text when all is set up, by the
 * root from outside (/proc) and by each thread of itself (system calls), and
 * described again in each round. Arguments: which members the family has
 * beside its root.
 */
#include <dirent.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "res.h"

#define TEXT_ROOM 65536
#define NOBODY 65534

struct caps { uint64_t effective, permitted, inheritable; };

static int caps_set(struct caps c)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = {
		{ (uint32_t)c.effective, (uint32_t)c.permitted, (uint32_t)c.inheritable },
		{ (uint32_t)(c.effective >> 32), (uint32_t)(c.permitted >> 32), (uint32_t)(c.inheritable >> 32) },
	};

	return syscall(SYS_capset, &head, data);
}

static uint64_t cap(int number)
{
	return 1ull << number;
}

static void limit(struct res *r, int what, rlim_t soft, rlim_t hard)
{
	struct rlimit was;

	MUST(r, getrlimit(what, &was) == 0);
	struct rlimit to = { soft < was.rlim_max ? soft : was.rlim_max, hard < was.rlim_max ? hard : was.rlim_max };
	MUST(r, setrlimit(what, &to) == 0);
}

static void pin(struct res *r)
{
	cpu_set_t set;

	sched_getaffinity(0, sizeof(set), &set);
	for (int cpu = CPU_SETSIZE - 1, kept = 0; cpu >= 0; cpu--)	/* the last one alone */
		if (CPU_ISSET(cpu, &set) && kept++)
			CPU_CLR(cpu, &set);
	MUST(r, sched_setaffinity(0, sizeof(set), &set) == 0);
}

/* The settings, one function a task or thread. */
static void thread_idle(struct res *r)
{
	prctl(PR_SET_NAME, "attrs idle)(");	/* parsers of stat stumble over this */
	MUST(r, sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 }) == 0);
}

static void thread_fifo(struct res *r)
{
	struct sched_param p = { .sched_priority = 3 };

	(void)r;
	prctl(PR_SET_NAME, "attrs fifo");
	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &p))	/* not everywhere */
		setpriority(PRIO_PROCESS, gettid(), 13);
}

/* These two have no place in the image format. */
static void thread_slack(struct res *r)
{
	(void)r;
	prctl(PR_SET_NAME, "attrs slack");
	prctl(PR_SET_TIMERSLACK, 777777);
}

static void thread_pinned(struct res *r)
{
	prctl(PR_SET_NAME, "attrs pinned");
	pin(r);
}

static void thread_caps(struct res *r)
{
	prctl(PR_SET_NAME, "attrs caps");
	MUST(r, setpriority(PRIO_PROCESS, gettid(), -7) == 0);
	MUST(r, syscall(SYS_setresgid, 5, 6, 7) == 0);
	MUST(r, syscall(SYS_setgroups, 2, ((gid_t[]){ 9, 12 })) == 0);
	MUST(r, caps_set((struct caps){ cap(CAP_KILL) | cap(CAP_CHOWN), cap(CAP_KILL) | cap(CAP_CHOWN) | cap(CAP_SYS_TIME), cap(CAP_CHOWN) }) == 0);
}

static void root_set(struct res *r)
{
	umask(027);
	mkdir("below", 0755);
	MUST(r, chdir("below") == 0);
	prctl(PR_SET_NAME, "attrs root");
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	MUST(r, setpriority(PRIO_PROCESS, 0, 5) == 0);
	MUST(r, sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){ 0 }) == 0);
	limit(r, RLIMIT_NOFILE, 512, 1024);
	limit(r, RLIMIT_CORE, 1 << 20, RLIM_INFINITY);
	limit(r, RLIMIT_FSIZE, 1ull << 40, 1ull << 41);
	limit(r, RLIMIT_STACK, 16 << 20, 64 << 20);
	limit(r, RLIMIT_SIGPENDING, 400, 500);
	limit(r, RLIMIT_CPU, 100000, 100001);
	limit(r, RLIMIT_RTPRIO, 9, 10);
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);
	MUST(r, write(fd, "321", 3) == 3);
	close(fd);
}

static void user_set(struct res *r)
{
	const uint64_t kill_parent = cap(CAP_KILL);	/* the answer to a question */
	const struct caps some = { cap(CAP_NET_RAW) | kill_parent, cap(CAP_NET_RAW) | kill_parent | cap(CAP_SYS_NICE) | cap(CAP_NET_BIND_SERVICE), cap(CAP_NET_BIND_SERVICE) | cap(CAP_SYS_NICE) };

	umask(0);
	MUST(r, setgroups(3, ((gid_t[]){ 7, 100, 4000000000u })) == 0);
	MUST(r, prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP_LOCKED) == 0);
	MUST(r, setresgid(1000, 1001, 1002) == 0 && setresuid(2000, 2001, NOBODY) == 0);
	MUST(r, caps_set(some) == 0);
	MUST(r, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) == 0);
	MUST(r, prctl(PR_SET_PDEATHSIG, SIGUSR2) == 0);
	MUST(r, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	limit(r, RLIMIT_NOFILE, 100, 200);
}

static void jail_set(struct res *r)
{
	mkdir("../jail", 0755);
	mkdir("../jail/cell", 0755);
	MUST(r, chroot("..") == 0 && chdir("/jail/cell") == 0 && chroot("..") == 0);
	MUST(r, prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	MUST(r, prctl(PR_SET_DUMPABLE, 0) == 0);
	prctl(PR_SET_NAME, "attrs jail");
}

static void odd_set(struct res *r)
{
	MUST(r, personality(ADDR_NO_RANDOMIZE | SHORT_INODE) >= 0);
	prctl(PR_SET_NAME, "attrs odd");
}

static void bound_set(struct res *r)
{
	prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE);
	prctl(PR_CAPBSET_DROP, CAP_WAKE_ALARM);
	MUST(r, prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED) == 0);
	MUST(r, setresuid(0, 33, 0) == 0);
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	prctl(PR_SET_NAME, "attrs bound");
}

/* What a thread can say of itself by system calls alone, its name first. */
static void see_inside(char *out, size_t room)
{
	static const struct { const char *name; int get; bool by_pointer; } gets[] = {
		{ "dumpable", PR_GET_DUMPABLE }, { "pdeathsig", PR_GET_PDEATHSIG, true }, { "subreaper", PR_GET_CHILD_SUBREAPER, true },
		{ "securebits", PR_GET_SECUREBITS }, { "thp_disable", PR_GET_THP_DISABLE }, { "no_new_privs", PR_GET_NO_NEW_PRIVS },
		{ "timerslack", PR_GET_TIMERSLACK }, { "keepcaps", PR_GET_KEEPCAPS }, { "tsc", PR_GET_TSC, true },
	};
	struct sched_param p;
	char cwd[256], name[32];

	prctl(PR_GET_NAME, name);
	sched_getparam(0, &p);
	size_t n = snprintf(out, room, "%s\npersonality %#x\nscheduler %#x\npriority %d\nnice %d\ncwd %s", name, personality(0xffffffff),
			    sched_getscheduler(0), p.sched_priority, getpriority(PRIO_PROCESS, gettid()), getcwd(cwd, sizeof(cwd)));
	for (size_t i = 0; i < sizeof(gets) / sizeof(gets[0]); i++) {
		int value = 0;
		int ret = prctl(gets[i].get, gets[i].by_pointer ? (long)&value : 0, 0, 0, 0);

		n += snprintf(out + n, room - n, "\n%s %d", gets[i].name, gets[i].by_pointer ? value : ret);
	}
	struct rlimit lim;
	for (int what = 0; what < RLIM_NLIMITS; what++)
		if (getrlimit(what, &lim) == 0)
			n += snprintf(out + n, room - n, "\nlimit%d %ld/%ld", what, (long)lim.rlim_cur, (long)lim.rlim_max);
}

struct self { char was[2048], is[2048]; };

static void self_check(struct res *r, void *arg)
{
	struct self *s = arg;
	char who[64];

	see_inside(s->is, sizeof(s->is));
	if (r->round == 0)
		strcpy(s->was, s->is);
	snprintf(who, sizeof(who), "of itself, %.*s", (int)strcspn(s->is, "\n"), s->is);
	res_same_text(r, who, s->was, s->is);
}

struct thread {
	struct res *r;
	void (*set)(struct res *r);
	sem_t go, done;
	struct self self;
};

static void *thread_run(void *arg)
{
	struct thread *t = arg;

	t->set(t->r);
	for (;;) {
		sem_post(&t->done);
		while (sem_wait(&t->go))
			;
		self_check(t->r, &t->self);
	}
	return NULL;
}

/* Adds to `out` those parts of a thread's /proc directory that have to stay. */
static size_t see_outside(const char *base, char *out, size_t room)
{
	static const char *const files[] = { "cmdline", "environ", "auxv", "limits", "oom_score_adj", "personality", "timerslack_ns", "comm" };
	static const char *const links[] = { "exe", "cwd", "root" };
	static const char *const lines[] = { "Umask", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
					     "Seccomp", "Cpus_allowed", "THP_enabled", "SigIgn", "SigCgt" };
	static char text[TEXT_ROOM];
	char path[400], link[256];
	size_t n = 0;

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", base, files[i]);
		ssize_t len = res_read(path, text, sizeof(text));
		n += snprintf(out + n, room - n, "%s %s ", path, len < 0 ? "none" : "");
		for (ssize_t c = 0; c < len && n + 8 < room; c++)	/* auxv is binary */
			n += snprintf(out + n, room - n, text[c] == '\n' || (text[c] >= ' ' && text[c] < 127) ? "%c" : "\\%02hhx", text[c]);
		n += snprintf(out + n, room - n, "\n");
	}
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", base, links[i]);
		ssize_t len = readlink(path, link, sizeof(link));
		n += snprintf(out + n, room - n, "%s %.*s\n", path, (int)(len < 0 ? 0 : len), link);
	}
	snprintf(path, sizeof(path), "%s/status", base);
	res_read(path, text, sizeof(text));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
			if (strncmp(line, lines[i], strlen(lines[i])) == 0 && line[strlen(lines[i])] == ':')
				n += snprintf(out + n, room - n, "%s %s\n", base, line);
	snprintf(path, sizeof(path), "%s/stat", base);
	res_read(path, text, sizeof(text));
	char *field = strtok(strrchr(text, ')') + 1, " ");
	for (int i = 3; field; field = strtok(NULL, " "), i++)	/* priority, nice, rt priority, policy; layout of the address space */
		if (i == 18 || i == 19 || i == 40 || i == 41 || (i >= 26 && i <= 28) || (i >= 45 && i <= 51))
			n += snprintf(out + n, room - n, "%s stat field %d: %s\n", base, i, field);
	return n;
}

static void see_family(struct res *r, const pid_t *pids, int count, char *out, size_t room)
{
	char base[300];
	size_t n = 0;

	for (int i = 0; i < count; i++) {
		snprintf(base, sizeof(base), "/proc/%d/task", pids[i]);
		DIR *dir = opendir(base);
		MUST(r, dir);
		for (struct dirent *d; (d = readdir(dir));) {
			if (d->d_name[0] == '.')
				continue;
			snprintf(base, sizeof(base), "/proc/%d/task/%s", pids[i], d->d_name);
			n += see_outside(base, out + n, room - n);
		}
		closedir(dir);
	}
	MUST(r, n < room - 1);
}

static bool chosen(char **argv, const char *name)
{
	while (*argv && strcmp(*argv, name))
		argv++;
	return *argv;
}

int main(int argc, char **argv)
{
	static struct member { const char *name; void (*set)(struct res *r); struct thread thread; } members[] = {
		{ "user", user_set }, { "jail", jail_set }, { "bound", bound_set }, { "odd", odd_set },
		{ "idle", thread_idle }, { "fifo", thread_fifo }, { "caps", thread_caps },
		{ "slack", thread_slack }, { "pinned", thread_pinned },
	};
	enum { KIDS = 4, MEMBERS = 9 };
	static char was[8 * TEXT_ROOM], is[8 * TEXT_ROOM];
	static struct self self;
	struct res r = res_start(argc, argv);
	pid_t pids[1 + KIDS] = { getpid() };
	int tasks = 1;
	pthread_t id;

	root_set(&r);
	for (struct member *m = members; m < members + MEMBERS; m++) {
		if (!chosen(argv, m->name))
			continue;
		if (m < members + KIDS) {
			pid_t pid = pids[tasks++] = fork();

			if (pid == 0) {
				m->set(&r);
				if (m->set == jail_set)
					r.status_path = "/status";
				res_serve(&r, self_check, &self);
			}
			continue;
		}
		m->thread.r = &r;
		m->thread.set = m->set;
		MUST(&r, pthread_create(&id, NULL, thread_run, &m->thread) == 0);
		sem_wait(&m->thread.done);
	}
	prctl(PR_SET_DUMPABLE, 1);	/* a thread's new credentials have cleared it */
	for (;; res_next(&r)) {	/* round 0 writes down what is so */
		for (int t = 1; t < tasks; t++)
			res_ask(&r, pids[t]);
		see_family(&r, pids, tasks, r.round ? is : was, sizeof(is));
		if (r.round)
			res_same_text(&r, "attribute", was, is);
		self_check(&r, &self);
		for (struct member *m = members + KIDS; m < members + MEMBERS; m++)
			if (m->thread.r) {
				sem_post(&m->thread.go);
				while (sem_wait(&m->thread.done))
					;
			}
		if (r.round)
			res_done(&r);
		else
			res_ready(&r);
	}
}
