/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame of the odd programs: MODE [ARGS...] in a directory where they may write.  A program tells of itself in
 * the file "status" of that directory, a line a time; a line that begins with FAIL is what it never should say.
 */
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ODD_UNUSED __attribute__((unused))
#define MUST(x) ((x) ? (void)0 : odd_fail(#x, __LINE__))
#define MODE(name) (strcmp(argv[1], name) == 0)

static void say(const char *line)
{
	char text[200];
	int fd = open("status", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	int len = snprintf(text, sizeof(text), "%s\n", line);

	if (fd < 0 || write(fd, text, (size_t)len) != len)
		_exit(9);
	close(fd);
}

__attribute__((noreturn)) ODD_UNUSED static void odd_fail(const char *what, int line)
{
	char text[160];

	snprintf(text, sizeof(text), "FAIL line %d: %s: %s", line, what, strerror(errno));
	say(text);
	_exit(8);
}

__attribute__((noreturn)) ODD_UNUSED static void forever(void)
{
	for (;;)
		pause();
}

__attribute__((noreturn)) ODD_UNUSED static void ready(void)
{
	say("ready");
	forever();
}
