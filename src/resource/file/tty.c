/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tty - the terminal that a job was started from (--shell-job).
 *
 * It stays with the shell: a restored job gets the terminal that ferry is
 * started on, as a job of that shell would.
 *
 * Seen in:  the device, which must be the task's controlling terminal.
 * Made by:  opening ferry's own terminal again.
 * Image:    file_entry.tty, and one tty_info_entry with its settings.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "resource/resource.h"
#include "tty.pb-c.h"

#define TTY_MAJOR        4u
#define TTYAUX_MAJOR     5u     /* minor 0: /dev/tty, 1: the console, 2: /dev/ptmx */
#define PTMX_MINOR       2u
#define PTS_MAJOR        136u   /* to 143: the other ends of pseudo terminals */
#define PTS_MAJOR_LAST   143u
#define THE_ONE          1u     /* id of the only terminal in our images */

extern const struct file_type tty_type;

struct tty {
	dev_t dev;
	struct termios termios;
	struct winsize size;
};

static bool tty_claims(const struct fd_view *v)
{
	unsigned int major_nr = major(v->st.st_rdev);

	if (!S_ISCHR(v->st.st_mode) || strncmp(v->link, "/dev/", 5) != 0)
		return false;
	return major_nr == TTY_MAJOR || (major_nr == TTYAUX_MAJOR && minor(v->st.st_rdev) != PTMX_MINOR) ||
	       (major_nr >= PTS_MAJOR && major_nr <= PTS_MAJOR_LAST);
}

static int tty_see(const struct fd_view *v, void *state, struct err *err)
{
	struct tty *t = state;
	struct proc_stat stat;
	int r;

	if (!v->shell_job)
		return err_set(err, EOPNOTSUPP, "%s is a terminal: use --shell-job to give it the one that the restore is started on", v->link);
	r = proc_stat(v->pid, 0, &stat, err);
	if (r < 0)
		return r;
	/* stat tells the number in the form of st_rdev (new_encode_dev) */
	if (major(v->st.st_rdev) != TTYAUX_MAJOR && (dev_t)(uint32_t)stat.tty_nr != v->st.st_rdev)
		return err_set(err, EOPNOTSUPP, "%s is another terminal than the task's own: not handled yet", v->link);
	t->dev = v->st.st_rdev;
	if (tcgetattr(v->fd, &t->termios) < 0 || ioctl(v->fd, TIOCGWINSZ, &t->size) < 0)
		return err_sys(err, "ask %s for its settings", v->link);
	return 0;
}

static void tty_save(const struct file *f, FileEntry *rec)
{
	TtyFileEntry *body = mem_new(sizeof(*body));

	tty_file_entry__init(body);
	body->id = f->id;
	body->tty_info_id = THE_ONE;
	body->flags = f->flags;
	body->fown = fown_save(&f->fown);
	rec->type = FD_TYPES__TTY;
	rec->id = f->id;
	rec->tty = body;
}

static int put_info(const struct snapshot *s, const struct tty *t, struct store *store, struct err *err)
{
	TtyInfoEntry info = TTY_INFO_ENTRY__INIT;
	TermiosEntry termios = TERMIOS_ENTRY__INIT;
	WinsizeEntry size = WINSIZE_ENTRY__INIT;
	TtyPtyEntry pty = TTY_PTY_ENTRY__INIT;
	uint32_t cc[NCCS];
	own_writer *w = NULL;
	int r;

	for (size_t i = 0; i < NCCS; i++)
		cc[i] = t->termios.c_cc[i];
	termios.c_iflag = t->termios.c_iflag, termios.c_oflag = t->termios.c_oflag;
	termios.c_cflag = t->termios.c_cflag, termios.c_lflag = t->termios.c_lflag;
	termios.c_line = t->termios.c_line;
	termios.c_ispeed = t->termios.c_ispeed, termios.c_ospeed = t->termios.c_ospeed;
	termios.n_c_cc = NCCS, termios.c_cc = cc;
	size.ws_row = t->size.ws_row, size.ws_col = t->size.ws_col;
	size.ws_xpixel = t->size.ws_xpixel, size.ws_ypixel = t->size.ws_ypixel;
	pty.index = minor(t->dev);
	info.id = THE_ONE;
	info.type = major(t->dev) == TTY_MAJOR ? TTY_TYPE__VT : major(t->dev) == TTYAUX_MAJOR ? TTY_TYPE__CTTY : TTY_TYPE__PTY;
	info.sid = (uint32_t)s->tasks.at[0].sid;
	info.pgrp = (uint32_t)s->tasks.at[0].pgid;
	info.rdev = (uint32_t)t->dev;
	info.termios = info.termios_locked = &termios;
	info.winsize = &size;
	info.pty = &pty;
	r = image_create(store, IMAGE_TTY_INFO, 0, &w, err);
	if (r == 0)
		r = image_put(w, &info.base, err);
	return r < 0 ? r : image_finish(&w, err);
}

static int tty_save_side(const struct snapshot *s, struct store *store, struct err *err)
{
	for (size_t i = 0; i < s->files.len; i++)
		if (s->files.at[i].type == &tty_type)
			return put_info(s, s->files.at[i].state, store, err);
	return 0;
}

static int tty_load(const FileEntry *rec, struct file *f, struct snapshot *s, struct err *err)
{
	(void)s;
	if (!rec->tty)
		return err_set(err, EBADMSG, "terminal record has no body");
	f->flags = rec->tty->flags;
	return fown_load(rec->tty->fown, &f->fown, err);
}

/* Under which name ferry's own terminal can be opened again. */
static void own_terminal(char path[static 32])
{
	snprintf(path, 32, "/dev/tty");
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (isatty(fd)) {
			snprintf(path, 32, "/proc/self/fd/%d", fd);
			return;
		}
}

static int tty_make(const struct file *f, struct maker *m, int *ret_fd, struct err *err)
{
	char path[32];
	int fd;

	if (!m->shell_job)
		return err_set(err, EINVAL, "it was on a terminal: use --shell-job to give it this one");
	own_terminal(path);
	fd = open(path, (int)(f->flags & O_ACCMODE) | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, "open the terminal of this restore");
	*ret_fd = fd;
	return 0;
}

const struct file_type tty_type = {
	.name = "terminals, with --shell-job",
	.lost = "the terminal: the one that the restore is started on takes its place",
	.record = FD_TYPES__TTY,
	.state_size = sizeof(struct tty),
	.claims = tty_claims,
	.see = tty_see,
	.save = tty_save,
	.load = tty_load,
	.make = tty_make,
	.save_side = tty_save_side,
};
