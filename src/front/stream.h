/* SPDX-License-Identifier: Apache-2.0 */
/* stream.h - the ends of streams that a command line names. */
#pragma once
#include "front/options.h"
#include "wire/codec.h"

/* Of --compress. */
int stream_compression(const struct options *options, struct codec_choice *ret, struct err *err);
/* Where statistics go, when somebody said where; NULL: nowhere.  Without a stream: always somewhere. */
const char *stream_work_dir(const struct options *options);
/* Standard output becomes the stream, and nobody else's: words that go there from now on go to standard error. */
int stream_take_output(int *ret_fd, struct err *err);
/* "-": standard input, which is nobody else's from now on; else a file. */
int stream_open_input(const char *name, int *ret_fd, struct err *err);
