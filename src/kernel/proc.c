/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "kernel/proc.h"
#include "kernel/scan.h"

#define PATH_BYTES 96u

static void path_of(char path[PATH_BYTES], pid_t pid, const char *name)
{
	snprintf(path, PATH_BYTES, "/proc/%d/%s", pid, name);
}

/* A task that is gone is ENOENT from open, ESRCH from read: one answer for both. */
static int proc_failed(pid_t pid, const char *name, struct err *err)
{
	char path[PATH_BYTES];
	int code = errno;

	path_of(path, pid, "");
	if (code == ESRCH || (code == ENOENT && access(path, F_OK) < 0))
		return err_set(err, ESRCH, "process %d is gone", pid);
	errno = code;
	return err_sys(err, "/proc/%d/%s", pid, name);
}

static int not_understood(pid_t pid, const char *name, struct err *err)
{
	return err_set(err, EBADMSG, "/proc/%d/%s is not understood", pid, name);
}

int proc_open_file(pid_t pid, const char *name, int flags, int *ret_fd, struct err *err)
{
	char path[PATH_BYTES];
	int fd;

	path_of(path, pid, name);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		fd = open(path, flags | O_CLOEXEC);     /* a task that was ending had a directory but no file in it, once */
	if (fd < 0)
		return proc_failed(pid, name, err);
	*ret_fd = fd;
	return 0;
}

int proc_open(pid_t pid, int *ret_fd, struct err *err)
{
	return proc_open_file(pid, "", O_PATH | O_DIRECTORY, ret_fd, err);
}

int proc_read(pid_t pid, const char *name, char *buf, size_t size, struct err *err)
{
	own_fd fd = -1;
	size_t len = 0;
	ssize_t n;
	int r = proc_open_file(pid, name, O_RDONLY, &fd, err);

	if (r < 0)
		return r;
	while ((n = read(fd, buf + len, size - len)) > 0) {
		len += (size_t)n;
		if (len == size)
			return err_set(err, E2BIG, "/proc/%d/%s has over %zu bytes", pid, name, size - 1);
	}
	if (n < 0)
		return proc_failed(pid, name, err);
	buf[len] = '\0';
	return (int)len;
}

static void text_room(struct proc_text *text, size_t room)
{
	if (text->cap - text->len > room)
		return;
	text->cap = text->len + (text->cap > room ? text->cap : room) + 1;
	text->at = realloc(text->at, text->cap);
	if (!text->at)
		mem_out();
}

int proc_read_all(pid_t pid, const char *name, struct proc_text *text, struct err *err)
{
	own_fd fd = -1;
	ssize_t n;
	int r = proc_open_file(pid, name, O_RDONLY, &fd, err);

	if (r < 0)
		return r;
	text->len = 0;
	do {                            /* not more anew than needed: while ferry's own maps are read, its memory should stay */
		text_room(text, text->len == 0 ? 16384 : 4096);
		n = read(fd, text->at + text->len, text->cap - text->len - 1);
		if (n < 0)
			return proc_failed(pid, name, err);
		text->len += (size_t)n;
	} while (n > 0);
	text->at[text->len] = '\0';
	return 0;
}

int proc_link(pid_t pid, const char *name, char *buf, size_t size, struct err *err)
{
	char path[PATH_BYTES];
	ssize_t n;

	path_of(path, pid, name);
	n = readlink(path, buf, size);
	if (n < 0)
		return proc_failed(pid, name, err);
	if ((size_t)n >= size)
		return err_set(err, ENAMETOOLONG, "/proc/%d/%s points to over %zu bytes", pid, name, size - 1);
	buf[n] = '\0';
	return (int)n;
}

static int by_value(const void *a, const void *b)
{
	return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

static void sort_ids(struct proc_ids *ids)
{
	if (ids->len > 1)
		qsort(ids->at, ids->len, sizeof(*ids->at), by_value);
}

static bool name_is_id(const char *name, int *ret_id)
{
	struct scan s = scan_of(name, strlen(name));
	uint64_t v;

	if (!scan_u64(&s, 10, &v) || s.at != s.end || v > INT_MAX)
		return false;
	*ret_id = (int)v;
	return true;
}

/* The names in a directory that are numbers. */
static int list_ids(const char *path, struct proc_ids *ids)
{
	own_dir *dir = opendir(path);
	const struct dirent *d;
	int id;

	if (!dir)
		return -1;
	for (errno = 0; (d = readdir(dir)); errno = 0)
		if (name_is_id(d->d_name, &id))
			vec_push(ids, id);
	return errno ? -1 : 0;
}

static int proc_list(pid_t pid, const char *name, struct proc_ids *ret_ids, struct err *err)
{
	struct proc_ids ids = { 0 };
	char path[PATH_BYTES];

	path_of(path, pid, name);
	if (list_ids(path, &ids) < 0) {
		vec_free(&ids);
		return proc_failed(pid, name, err);
	}
	sort_ids(&ids);
	*ret_ids = ids;
	return 0;
}

int proc_threads(pid_t pid, struct proc_ids *ret_tids, struct err *err)
{
	return proc_list(pid, "task", ret_tids, err);
}

int proc_fds(pid_t pid, struct proc_ids *ret_fds, struct err *err)
{
	return proc_list(pid, "fd", ret_fds, err);
}

int proc_pids(struct proc_ids *ret_pids, struct err *err)
{
	struct proc_ids ids = { 0 };

	if (list_ids("/proc", &ids) < 0) {
		vec_free(&ids);
		return err_sys(err, "/proc");
	}
	sort_ids(&ids);
	*ret_pids = ids;
	return 0;
}

static int children_of(pid_t pid, pid_t tid, struct proc_text *text, struct proc_ids *pids, struct err *err)
{
	struct scan s;
	char name[64];
	uint64_t v;
	int r;

	snprintf(name, sizeof(name), "task/%d/children", tid);
	r = proc_read_all(pid, name, text, err);
	if (r == -ENOENT || (r == -ESRCH && tid != pid))        /* the thread has ended: another one has its children */
		return 0;
	if (r < 0)
		return r;
	for (s = scan_of(text->at, text->len); scan_blanks(&s), s.at < s.end;) {
		if (!scan_u64(&s, 10, &v) || v > INT_MAX)
			return not_understood(pid, name, err);
		vec_push(pids, (int)v);
	}
	return 0;
}

int proc_children(pid_t pid, struct proc_ids *ret_pids, struct err *err)
{
	struct proc_ids tids = { 0 }, pids = { 0 };
	struct proc_text text = { 0 };
	int r = proc_threads(pid, &tids, err);

	for (size_t i = 0; r == 0 && i < tids.len; i++)
		r = children_of(pid, tids.at[i], &text, &pids, err);
	vec_free(&tids);
	vec_free(&text);
	if (r < 0) {
		vec_free(&pids);
		return r;
	}
	sort_ids(&pids);
	*ret_pids = pids;
	return 0;
}

int proc_comm(pid_t pid, pid_t tid, char ret_comm[16], struct err *err)
{
	char name[64], buf[80] = "";    /* kernel threads have longer names */
	int n;

	snprintf(name, sizeof(name), tid ? "task/%d/comm" : "comm", tid);
	n = proc_read(pid, name, buf, sizeof(buf), err);
	if (n < 0)
		return n;
	if (n < 1 || buf[n - 1] != '\n')
		return not_understood(pid, name, err);
	buf[n - 1] = '\0';
	buf[15] = '\0';
	memcpy(ret_comm, buf, 16);
	return 0;
}

static int small_u64(pid_t pid, const char *name, unsigned int base, uint64_t max, uint64_t *ret_value, struct err *err)
{
	char buf[64];
	int n = proc_read(pid, name, buf, sizeof(buf), err);
	struct scan s;

	if (n < 0)
		return n;
	s = scan_of(buf, (size_t)n);
	if (!scan_u64(&s, base, ret_value) || *ret_value > max)
		return not_understood(pid, name, err);
	return 0;
}

int proc_oom_score_adj(pid_t pid, int *ret_score, struct err *err)
{
	char buf[64];
	int n = proc_read(pid, "oom_score_adj", buf, sizeof(buf), err);
	struct scan s;
	int64_t v;

	if (n < 0)
		return n;
	s = scan_of(buf, (size_t)n);
	if (!scan_i64(&s, &v) || v < -1000 || v > 1000)
		return not_understood(pid, "oom_score_adj", err);
	*ret_score = (int)v;
	return 0;
}

int proc_set_oom_score_adj(pid_t pid, int score, struct err *err)
{
	own_fd fd = -1;
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", score);
	int r = proc_open_file(pid, "oom_score_adj", O_WRONLY, &fd, err);

	if (r < 0)
		return r;
	return write(fd, text, (size_t)len) == len ? 0 : proc_failed(pid, "oom_score_adj", err);
}

int proc_loginuid(pid_t pid, uint32_t *ret_uid, struct err *err)
{
	uint64_t v = 0;
	int r = small_u64(pid, "loginuid", 10, UINT32_MAX, &v, err);

	if (r == 0)
		*ret_uid = (uint32_t)v;
	return r;
}

int proc_personality(pid_t pid, uint32_t *ret_persona, struct err *err)
{
	uint64_t v = 0;
	int r = small_u64(pid, "personality", 16, UINT32_MAX, &v, err);

	if (r == 0)
		*ret_persona = (uint32_t)v;
	return r;
}

int proc_auxv(pid_t pid, uint64_t *words, size_t max, struct err *err)
{
	struct proc_text text = { 0 };
	int r = proc_read_all(pid, "auxv", &text, err);
	size_t count = text.len / sizeof(*words);

	if (r == 0 && text.len % (2 * sizeof(*words)))
		r = not_understood(pid, "auxv", err);
	if (r == 0 && count > max)
		r = err_set(err, E2BIG, "/proc/%d/auxv has %zu words", pid, count);
	if (r == 0)
		memcpy(words, text.at, text.len);
	vec_free(&text);
	return r < 0 ? r : (int)count;
}

int proc_ns_id(pid_t pid, const char *name, dev_t *ret_dev, ino_t *ret_ino, struct err *err)
{
	char path[PATH_BYTES], ns[64];
	struct stat st;

	snprintf(ns, sizeof(ns), "ns/%s", name);
	path_of(path, pid, ns);
	if (stat(path, &st) < 0)
		return proc_failed(pid, ns, err);
	*ret_dev = st.st_dev;
	*ret_ino = st.st_ino;
	return 0;
}

/* ---- of the machine ---- */

uint64_t proc_number(const char *path, const char *before)
{
	own_free char *line = NULL;
	size_t size = 0, len = strlen(before);
	uint64_t value = 0;
	FILE *f = fopen(path, "re");

	while (f && getline(&line, &size, f) >= 0)
		if (strncmp(line, before, len) == 0) {
			value = strtoull(line + len, NULL, 10);
			break;
		}
	if (f)
		(void)fclose(f);
	return value;
}
