/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "front/command.h"
#include "front/json.h"
#include "front/summary.h"

int cmd_show(const struct options *options, struct err *err)
{
	const char *path = options->operands.len > 0 ? options->operands.at[0] : options->images_dir;
	own_store *store = NULL;
	struct stat st;
	int r;

	if (options->operands.len > 1)
		return err_set(err, EINVAL, "one directory or image at a time");
	if (stat(path, &st) < 0)
		return err_sys(err, "%s", path);
	if (!S_ISDIR(st.st_mode))
		return image_print_json(path, stdout, err);
	r = store_open_dir(path, &store, err);
	return r < 0 ? r : summary_print(store, stdout, err);
}
