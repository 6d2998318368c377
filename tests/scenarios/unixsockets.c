/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two tasks and their unix sockets: a stream pair and a seqpacket pair that carry
 * a ping each round, a datagram socket bound to a name, a connection through
 * a listening socket, and a pair in whose queue three messages stay.
 */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "board.h"

static const char *const kept[] = { "one", "two two", "three three three" };

struct ends {
	int stream[2], packet[2], bound, listening, connected, accepted, queue[2];
};

static socklen_t name_of(struct sockaddr_un *ret_name, const char *name)
{
	*ret_name = (struct sockaddr_un){ .sun_family = AF_UNIX };
	strcpy(ret_name->sun_path, name);
	return sizeof(*ret_name);
}

static int bound_socket(int type, const char *name)
{
	struct sockaddr_un addr;
	int fd = socket(AF_UNIX, type, 0);

	if (bind(fd, (struct sockaddr *)&addr, name_of(&addr, name)) < 0) {
		perror(name);
		exit(1);
	}
	return fd;
}

static struct ends make_ends(board_slot *board)
{
	struct sockaddr_un addr;
	struct ends e;

	board_check(board, socketpair(AF_UNIX, SOCK_STREAM, 0, e.stream) == 0);
	board_check(board, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, e.packet) == 0);
	board_check(board, socketpair(AF_UNIX, SOCK_DGRAM, 0, e.queue) == 0);
	e.bound = bound_socket(SOCK_DGRAM, "bound");
	e.listening = bound_socket(SOCK_STREAM, "listening");
	board_check(board, listen(e.listening, 5) == 0);
	e.connected = socket(AF_UNIX, SOCK_STREAM, 0);
	board_check(board, connect(e.connected, (struct sockaddr *)&addr, name_of(&addr, "listening")) == 0);
	e.accepted = accept(e.listening, NULL, NULL);
	for (int i = 0; i < 3; i++)
		board_check(board, send(e.queue[0], kept[i], strlen(kept[i]), 0) == (ssize_t)strlen(kept[i]));
	return e;
}

static void check_queue(board_slot *board, int fd)
{
	char got[64];
	ssize_t n = recv(fd, got, sizeof(got), MSG_PEEK);

	board_check(board, n == (ssize_t)strlen(kept[0]) && memcmp(got, kept[0], n) == 0);
}

static void pass(board_slot *board, int fd, int sends_first, uint64_t round)
{
	uint64_t got = 0;

	if (sends_first)
		board_check(board, send(fd, &round, sizeof(round), 0) == sizeof(round));
	board_check(board, recv(fd, &got, sizeof(got), MSG_WAITALL) == sizeof(got) && got == round);
	if (!sends_first)
		board_check(board, send(fd, &round, sizeof(round), 0) == sizeof(round));
}

static void name_the_bound(board_slot *board, const struct ends *e, uint64_t round, int receives)
{
	struct sockaddr_un addr;
	int from;

	if (receives) {
		uint64_t got = 0;

		board_check(board, recv(e->bound, &got, sizeof(got), 0) == sizeof(got) && got == round);
		return;
	}
	from = socket(AF_UNIX, SOCK_DGRAM, 0);
	board_check(board, sendto(from, &round, sizeof(round), 0, (struct sockaddr *)&addr, name_of(&addr, "bound")) == sizeof(round));
	close(from);
}

int main(void)
{
	board_slot *board = board_open();
	struct ends e = make_ends(board);
	int child = fork() == 0;

	for (uint64_t round = 1;; round++) {
		pass(board, e.stream[child], child, round);
		pass(board, e.packet[child], child, round);
		pass(board, child ? e.accepted : e.connected, child, round);
		name_the_bound(board, &e, round, child);
		check_queue(board, e.queue[1]);
		atomic_fetch_add(&board[BOARD_FIRST + child], 1);
		usleep(500);
	}
}
