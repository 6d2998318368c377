/* SPDX-License-Identifier: Apache-2.0 */
/* registry.c - every kind we know.  Task and thread kinds stand in the order in which they are made. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/own.h"
#include "resource/resource.h"

extern const struct file_type reg_type, memfd_type;
extern const struct file_type pipe_type, fifo_type;
extern const struct file_type eventfd_type, eventpoll_type, timerfd_type, signalfd_type;
extern const struct file_type tty_type;
extern const struct file_type unix_type, inet_type;

const struct file_type *const file_types[] = {
	&reg_type,
	&memfd_type,
	&pipe_type,
	&fifo_type,
	&eventfd_type,
	&eventpoll_type,
	&timerfd_type,
	&signalfd_type,
	&tty_type,
	&unix_type,
	&inet_type,
	NULL,
};

extern const struct task_kind actions_kind, pending_kind, itimers_kind, timers_kind, limits_kind, membarrier_kind, misc_kind,
	queue_limit_kind;

const struct task_kind *const task_kinds[] = {
	&membarrier_kind,
	&limits_kind,
	&actions_kind,
	&itimers_kind,
	&timers_kind,
	&misc_kind,
	&pending_kind,
	&queue_limit_kind,      /* when all signals are queued */
	NULL,
};

extern const struct thread_kind registers_kind, areas_kind, name_kind, sched_kind, creds_kind, queue_kind;

const struct thread_kind *const thread_kinds[] = {
	&registers_kind,        /* general, xsave, mask */
	&areas_kind,            /* altstack, robust list, clear_child_tid, rseq */
	&name_kind,
	&sched_kind,
	&creds_kind,            /* drops rights: after all that needs them; pdeath signal with it */
	&queue_kind,            /* pending signals of the thread */
	NULL,
};

/* Sockets all have the same kind of link: their family says more. */
static int unknown_socket(const struct fd_view *v, int family, struct err *err)
{
	static const struct { int family; const char *name; } names[] = {
		{ AF_NETLINK, "netlink" }, { AF_PACKET, "packet" }, { AF_VSOCK, "vsock" }, { AF_ALG, "crypto (ALG)" },
		{ AF_BLUETOOTH, "bluetooth" }, { AF_CAN, "CAN" }, { AF_XDP, "XDP" }, { AF_TIPC, "TIPC" },
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (names[i].family == family)
			return err_set(err, EOPNOTSUPP, "%s, a %s socket, is not handled yet", v->link, names[i].name);
	return err_set(err, EOPNOTSUPP, "%s, a socket of family %d, is not handled yet", v->link, family);
}

int file_type_of(const struct fd_view *v, const struct file_type **ret_type, struct err *err)
{
	int family = -1;
	socklen_t len = sizeof(family);

	for (size_t i = 0; file_types[i]; i++)
		if (file_types[i]->claims(v)) {
			*ret_type = file_types[i];
			return 0;
		}
	if (S_ISSOCK(v->st.st_mode) && getsockopt(v->fd, SOL_SOCKET, SO_DOMAIN, &family, &len) == 0)
		return unknown_socket(v, family, err);
	return err_set(err, EOPNOTSUPP, "%s is of a kind that is not handled yet", v->link);
}

const struct file_type *file_type_of_record(int record)
{
	for (size_t i = 0; file_types[i]; i++)
		if (file_types[i]->record == record)
			return file_types[i];
	return NULL;
}
