/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "front/stream.h"

int stream_compression(const struct options *options, struct codec_choice *ret, struct err *err)
{
	*ret = (struct codec_choice){ WISH_NONE, 0 };
	return options->compress ? codec_parse(options->compress, ret, err) : 0;
}

const char *stream_work_dir(const struct options *options)
{
	return options->stream && strcmp(options->work_dir, ".") == 0 ? NULL : options->work_dir;
}

static int take(int fd, int instead, int *ret_fd, struct err *err)
{
	own_fd own = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (own < 0 || dup2(instead, fd) < 0)
		return err_sys(err, "a descriptor for the stream");
	*ret_fd = TAKE_FD(own);
	return 0;
}

int stream_take_output(int *ret_fd, struct err *err)
{
	if (isatty(STDOUT_FILENO))
		return err_set(err, EINVAL, "a stream is nothing for a terminal: send it to a file or to a program");
	return take(STDOUT_FILENO, STDERR_FILENO, ret_fd, err);
}

int stream_open_input(const char *name, int *ret_fd, struct err *err)
{
	own_fd nothing = -1;

	if (strcmp(name, "-") != 0) {
		*ret_fd = open(name, O_RDONLY | O_CLOEXEC);
		return *ret_fd < 0 ? err_sys(err, "%s", name) : 0;
	}
	if (isatty(STDIN_FILENO))
		return err_set(err, EINVAL, "a stream does not come from a terminal");
	nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return nothing < 0 ? err_sys(err, "/dev/null") : take(STDIN_FILENO, nothing, ret_fd, err);
}
