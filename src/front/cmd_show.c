/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/own.h"
#include "engine/stream_in.h"
#include "front/command.h"
#include "front/json.h"
#include "front/stream.h"
#include "front/summary.h"

/* The images come into memory, and all of the stream is checked. */
static int show_stream(int fd, struct err *err)
{
	struct stream_in stream;
	own_store *store = NULL;
	int r = store_create_in_memory(&store, err);

	if (r < 0)
		return r;
	r = stream_in_begin(&stream, fd, store, err);
	if (r == 0)
		r = summary_print(store, stdout, err);
	if (r == 0)
		r = stream_in_end(&stream, err);
	stream_in_free(&stream);
	return r;
}

int cmd_show(const struct options *options, struct err *err)
{
	const char *path = options->operands.len > 0 ? options->operands.at[0] : options->images_dir;
	own_store *store = NULL;
	bool input = strcmp(path, "-") == 0;
	own_fd stream = -1;
	struct stat st;
	int r;

	if (options->operands.len > 1)
		return err_set(err, EINVAL, "one directory or image at a time");
	if (!input && stat(path, &st) < 0)
		return err_sys(err, "%s", path);
	if (input || S_ISREG(st.st_mode)) {
		r = stream_open_input(path, &stream, err);
		if (r < 0)
			return r;
	}
	if (input || (stream >= 0 && frame_is_stream(stream)))
		return show_stream(stream, err);
	if (!S_ISDIR(st.st_mode))
		return image_print_json(path, stdout, err);
	r = store_open_dir(path, &store, err);
	return r < 0 ? r : summary_print(store, stdout, err);
}
