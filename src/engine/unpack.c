/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/new_dir.h"
#include "engine/stream_in.h"
#include "engine/unpack.h"

int unpack_stream(int fd, const char *dir, const struct progress *progress, struct unpack_result *ret, struct err *err)
{
	struct progress_meter meter = { .to = progress };
	struct stream_in stream;
	struct new_dir out;
	int r = new_dir_make(&out, dir, err);

	if (r < 0)
		return r;
	r = stream_in_store(&stream, fd, out.store, &meter, err);
	frame_answer(fd, r < 0 ? err->text : NULL);
	if (r == 0)
		*ret = (struct unpack_result){ stream.images, stream.pages };
	stream_in_free(&stream);        /* its descriptors may be all that there are */
	if (r < 0)
		new_dir_remove(&out);
	new_dir_close(&out);
	return r;
}
