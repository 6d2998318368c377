/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A family tree with every way to be related: groups and sessions whose
 * leaders live, are dead or are gone, orphans that a subreaper took in,
 * zombies, stopped tasks, threads with children. The root, a session leader
 * and subreaper, describes all of it from /proc; every task that runs looks at
 * itself; the root waits for the dead and breeds new ones. "leaderless" adds a
 * task in a session whose leader is gone, which the subreaper took in; "moved"
 * a group whose leader is in another one now.
 */
#include <dirent.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/prctl.h>

#include "res.h"

enum role {
	ROOT, PLAIN, LONE_GROUP, GROUP_LEFT, GROUP_MOVED, GROUP_STAYS, SESSION, SESSION_CHILD, SESSION_ZOMBIE, LATE_SESSION, EARLY_CHILD, LEADER_GONE, ORPHAN,
	ZOMBIE_GROUP_MEMBER, DEEP_1, DEEP_2, DEEP_3, STOPPED, STOPPED_TTY, LIVE_ROLES,
	ZOMBIE_EXIT = LIVE_ROLES, ZOMBIE_SIGNAL, ZOMBIE_SESSION, ZOMBIE_LEADER, ROLES
};

struct tree {
	int channel[2];		/* who was born where, until all is set up */
	pid_t pids[ROLES];
	char was[8192], is[8192];
};

/* What a task knows of itself; round 0 writes it down. */
struct me { struct tree *t; enum role role; pid_t pid, ppid, pgid, sid; int zombie; };

static bool is_serving(const struct tree *t, int role)
{
	return t->pids[role] && role < LIVE_ROLES && role != ROOT && role != STOPPED && role != STOPPED_TTY && role != SESSION_ZOMBIE;
}

static void tell(struct res *r, struct tree *t, enum role role, pid_t pid)
{
	int note[2] = { role, pid };

	MUST(r, write(t->channel[1], note, sizeof(note)) == sizeof(note));
}

/* Until `role` was told of. */
static void hear(struct res *r, struct tree *t, enum role role)
{
	int note[2];

	while (!t->pids[role]) {
		MUST(r, read(t->channel[0], note, sizeof(note)) == sizeof(note));
		t->pids[note[0]] = note[1];
	}
}

static pid_t corpse(struct res *r, int code, int sig, bool leads_session, bool leads_group)
{
	siginfo_t si;
	pid_t pid = fork();

	if (pid == 0) {
		if (leads_session)
			setsid();
		if (leads_group)
			setpgid(0, 0);
		if (sig) {
			signal(sig, SIG_DFL);
			raise(sig);
		}
		_exit(code);
	}
	MUST(r, waitid(P_PID, pid, &si, WEXITED | WNOWAIT) == 0);
	return pid;
}

static void bury(struct res *r, pid_t pid, int code, int sig)
{
	int status = -1;

	WANT_EQ(r, waitpid(pid, &status, WNOHANG), pid, "wait for zombie %d (code %d, signal %d)", pid, code, sig);
	WANT_EQ(r, status, code << 8 | sig, "status of zombie %d", pid);
}

static void self_check(struct res *r, void *arg)
{
	struct me *me = arg;

	if (r->round == 0)
		*me = (struct me){ me->t, me->role, getpid(), getppid(), getpgrp(), getsid(0), me->zombie };
	WANT_EQ(r, getpid(), me->pid, "role %d: pid", me->role);
	WANT_EQ(r, syscall(SYS_gettid), me->pid, "role %d: tid", me->role);
	WANT_EQ(r, getppid(), me->ppid, "role %d: ppid", me->role);
	WANT_EQ(r, getpgrp(), me->pgid, "role %d: pgid", me->role);
	WANT_EQ(r, getsid(0), me->sid, "role %d: sid", me->role);
	if (me->zombie && r->round > 0)	/* waited for after the root saw it: it stays away then */
		bury(r, me->zombie, 21, 0), me->zombie = 0;
}

__attribute__((noreturn))
static void live(struct res *r, struct tree *t, enum role role, pid_t zombie)
{
	struct me me = { .t = t, .role = role, .zombie = zombie };

	tell(r, t, role, getpid());
	close(t->channel[0]);
	close(t->channel[1]);
	res_serve(r, self_check, &me);
}

typedef void (*set_fn)(struct res *r, struct tree *t);

static pid_t spawn(struct res *r, struct tree *t, enum role role, set_fn set)
{
	pid_t pid = fork();

	MUST(r, pid >= 0);
	if (pid)
		return pid;
	if (set)
		set(r, t);
	live(r, t, role, 0);
}

static void own_group(struct res *r, struct tree *t) { (void)t; MUST(r, setpgid(0, 0) == 0); }

static void session(struct res *r, struct tree *t)
{
	MUST(r, setsid() == getpid());
	spawn(r, t, SESSION_CHILD, own_group);
	pid_t zombie = corpse(r, 21, 0, false, false);
	tell(r, t, SESSION_ZOMBIE, zombie);
	live(r, t, SESSION, zombie);
}

static void late_session(struct res *r, struct tree *t)
{
	spawn(r, t, EARLY_CHILD, NULL);
	MUST(r, setsid() == getpid());
}

/* The parent ends, its child stays: in a session without a leader, or just orphaned. */
static void lead_and_end(struct res *r, struct tree *t)
{
	MUST(r, setsid() == getpid());
	spawn(r, t, LEADER_GONE, NULL);
	_exit(0);
}

static void bear_and_end(struct res *r, struct tree *t)
{
	spawn(r, t, ORPHAN, NULL);
	_exit(0);
}

struct birth { struct res *r; struct tree *t; sem_t done; };

static void *bear_in_thread(void *arg)
{
	struct birth *b = arg;

	spawn(b->r, b->t, DEEP_3, NULL);
	sem_post(&b->done);
	for (;;)
		pause();
	return NULL;
}

static void deep_2(struct res *r, struct tree *t)
{
	static struct birth b;
	pthread_t id;

	b.r = r;
	b.t = t;
	MUST(r, pthread_create(&id, NULL, bear_in_thread, &b) == 0);
	while (sem_wait(&b.done))
		;
}

static void deep_1(struct res *r, struct tree *t) { own_group(r, t); spawn(r, t, DEEP_2, deep_2); }

/* A group whose leader is gone, or dead and not waited for. */
static void groups_make(struct res *r, struct tree *t)
{
	siginfo_t si;
	pid_t leader = spawn(r, t, LONE_GROUP, own_group);
	pid_t left = spawn(r, t, GROUP_LEFT, NULL);

	hear(r, t, LONE_GROUP);
	hear(r, t, GROUP_LEFT);
	MUST(r, setpgid(left, leader) == 0);
	kill(leader, SIGKILL);
	MUST(r, waitpid(leader, NULL, 0) == leader);
	t->pids[LONE_GROUP] = 0;
	spawn(r, t, LONE_GROUP, own_group);

	leader = spawn(r, t, ZOMBIE_LEADER, own_group);
	pid_t member = spawn(r, t, ZOMBIE_GROUP_MEMBER, NULL);
	hear(r, t, ZOMBIE_LEADER);
	hear(r, t, ZOMBIE_GROUP_MEMBER);
	MUST(r, setpgid(member, leader) == 0);
	kill(leader, SIGTERM);
	MUST(r, waitid(P_PID, leader, &si, WEXITED | WNOWAIT) == 0);
}

/* A group whose leader lives, in another one. */
static void moved_make(struct res *r, struct tree *t)
{
	pid_t leader = spawn(r, t, GROUP_MOVED, own_group), member = spawn(r, t, GROUP_STAYS, NULL);

	hear(r, t, GROUP_MOVED);
	hear(r, t, GROUP_STAYS);
	MUST(r, setpgid(member, leader) == 0 && setpgid(leader, getpgrp()) == 0);
}

static void stop(struct res *r, pid_t pid, int sig)
{
	siginfo_t si;

	MUST(r, kill(pid, sig) == 0 && waitid(P_PID, pid, &si, WSTOPPED) == 0 && si.si_status == sig);
}

static void make(struct res *r, struct tree *t, bool leaderless, bool moved)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	MUST(r, pipe(t->channel) == 0);
	t->pids[ROOT] = getpid();
	spawn(r, t, PLAIN, NULL);
	groups_make(r, t);
	if (moved)
		moved_make(r, t);
	spawn(r, t, SESSION, session);
	spawn(r, t, LATE_SESSION, late_session);
	if (leaderless)
		waitpid(spawn(r, t, ROLES, lead_and_end), NULL, 0);
	waitpid(spawn(r, t, ROLES, bear_and_end), NULL, 0);
	spawn(r, t, DEEP_1, deep_1);
	spawn(r, t, STOPPED, NULL);
	spawn(r, t, STOPPED_TTY, own_group);
	for (int role = 0; role < LIVE_ROLES; role++)
		if ((role != LEADER_GONE || leaderless) && ((role != GROUP_MOVED && role != GROUP_STAYS) || moved))
			hear(r, t, role);
	t->pids[ZOMBIE_EXIT] = corpse(r, 37, 0, false, false);
	t->pids[ZOMBIE_SIGNAL] = corpse(r, 0, SIGTERM, false, true);
	t->pids[ZOMBIE_SESSION] = corpse(r, 5, 0, true, false);
	close(t->channel[0]);
	close(t->channel[1]);
	for (int role = 0; role < ROLES; role++)
		if (is_serving(t, role) || role == STOPPED || role == STOPPED_TTY)
			res_ask(r, t->pids[role]);
	stop(r, t->pids[STOPPED], SIGSTOP);
	stop(r, t->pids[STOPPED_TTY], SIGTSTP);
	MUST(r, r->failures == 0);
}

/* A line a task: who it is and how it is related. A zombie's code, a living one's threads. */
static void see(struct tree *t, char *out)
{
	char path[64], text[1024];

	for (int role = 0; role < ROLES; role++) {
		int ppid = 0, pgid = 0, sid = 0, threads = 0, tids = 0;
		char state = '?';

		snprintf(path, sizeof(path), "/proc/%d/stat", t->pids[role]);
		if (res_read(path, text, sizeof(text)) > 0)
			sscanf(strrchr(text, ')') + 2, "%c %d %d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %d", &state, &ppid,
			       &pgid, &sid, &threads);
		snprintf(path, sizeof(path), "/proc/%d/task", t->pids[role]);
		DIR *dir = opendir(path);
		for (struct dirent *d; dir && (d = readdir(dir));)
			tids += atoi(d->d_name);
		if (dir)
			closedir(dir);
		const char *code = strrchr(text, ' ');
		out += sprintf(out, "role %d: pid %d ppid %d pgid %d sid %d state %c threads %d tids %d code %d\n", role, t->pids[role], ppid, pgid,
			       sid, state == 'T' || state == 'Z' || state == '?' ? state : '-', threads, tids, state == 'Z' && code ? atoi(code) : 0);
	}
}

static void stopped_check(struct res *r, pid_t pid, int sig)
{
	siginfo_t si;

	kill(pid, SIGCONT);
	WANT_EQ(r, waitid(P_PID, pid, &si, WCONTINUED), 0, "stopped task %d goes on", pid);
	res_ask(r, pid);
	stop(r, pid, sig);
}

/* A tool may leave before the signal that stops the task has worked. */
static void stopped_wait(pid_t pid)
{
	char path[64], text[1024];

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	for (int i = 0; i < 5000 && res_read(path, text, sizeof(text)) > 0 && strrchr(text, ')')[2] != 'T'; i++)
		usleep(1000);
}

static void check(struct res *r, struct tree *t)
{
	stopped_wait(t->pids[STOPPED]);
	stopped_wait(t->pids[STOPPED_TTY]);
	see(t, t->is);
	res_same_text(r, "relation", t->was, t->is);
	for (int role = 0; role < ROLES; role++)
		if (is_serving(t, role))
			res_ask(r, t->pids[role]);
	stopped_check(r, t->pids[STOPPED], SIGSTOP);
	stopped_check(r, t->pids[STOPPED_TTY], SIGTSTP);
	bury(r, t->pids[ZOMBIE_EXIT], 37, 0);
	bury(r, t->pids[ZOMBIE_SIGNAL], 0, SIGTERM);
	bury(r, t->pids[ZOMBIE_SESSION], 5, 0);
	WANT_EQ(r, waitpid(-1, NULL, WNOHANG), t->pids[ZOMBIE_LEADER], "the only zombie left");
	WANT_EQ(r, waitpid(-1, NULL, WNOHANG), 0, "no more zombies, and children that live");
	/* dead children of this round for the next one */
	t->pids[ZOMBIE_LEADER] = corpse(r, 1, 0, false, false);
	t->pids[ZOMBIE_EXIT] = corpse(r, 37, 0, false, false);
	t->pids[ZOMBIE_SIGNAL] = corpse(r, 0, SIGTERM, false, true);
	t->pids[ZOMBIE_SESSION] = corpse(r, 5, 0, true, false);
	see(t, t->was);
}

int main(int argc, char **argv)
{
	static struct tree t;
	struct res r = res_start(argc, argv);

	make(&r, &t, argc > 2 && strcmp(argv[2], "leaderless") == 0, argc > 2 && strcmp(argv[2], "moved") == 0);
	see(&t, t.was);
	res_ready(&r);
	for (;;) {
		res_next(&r);
		check(&r, &t);
		res_done(&r);
	}
}
