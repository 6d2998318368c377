/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broken DIR: tries every small image of a directory in every broken form: cut
 * at each length, and each byte with all of its bits turned, and with one. Each
 * time the directory is loaded as a restore would, in this process, and nothing
 * is made. With checksums each of these loads must fail with a sentence; without
 * them (a CRIU's directory) it may succeed. It never crashes, hangs or leaves a
 * descriptor open. After a crash DIR holds what caused it.
 *
 * Exit status 0 when all is so; the first that is not is named on stderr.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/restore.h"

enum { SMALL_BYTES = 64 << 10, HANG_S = 20 };

struct trial {
	const char *dir;
	bool checksums;
	int descriptors;
	unsigned long loads, refused;
};

static int count_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* `what` and `at` name the change that was made, for whoever reads the failure. */
static bool load(struct trial *t, const char *image, const char *what, size_t at)
{
	const struct restore_options options = { .images_dir = t->dir, .check_only = true };
	struct restore_result result;
	struct err err = { 0 };
	const char *wrong = NULL;
	int ret;

	alarm(HANG_S);
	ret = restore_run(&options, &result, &err);
	alarm(0);
	t->loads++;
	t->refused += ret < 0;
	if (ret < 0 && (!err.text[0] || err.code == 0))
		wrong = "refused without a word";
	else if (ret >= 0 && t->checksums)
		wrong = "not noticed";
	else if (count_descriptors() != t->descriptors)
		wrong = "left a descriptor open";
	if (wrong)
		fprintf(stderr, "%s: %s at byte %zu: %s (%s)\n", image, what, at, wrong, err.text);
	return !wrong;
}

static bool put_byte(int fd, size_t at, unsigned char byte)
{
	return pwrite(fd, &byte, 1, (off_t)at) == 1;
}

static bool try_image(struct trial *t, const char *name)
{
	unsigned char bytes[SMALL_BYTES];
	char path[4096];
	ssize_t len, left;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", t->dir, name);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || (len = pread(fd, bytes, sizeof(bytes), 0)) < 0 || len == sizeof(bytes)) {
		fprintf(stderr, "%s: can't be read, or is not small\n", path);
		return false;
	}
	t->descriptors = count_descriptors();
	for (ssize_t at = 0; at < len; at++) {
		const unsigned char flips[] = { 0xff, (unsigned char)(1 << at % 8) };

		for (size_t i = 0; i < sizeof(flips); i++)
			if (!put_byte(fd, at, bytes[at] ^ flips[i]) || !load(t, name, i ? "a bit turned" : "a byte turned", at))
				return false;
		put_byte(fd, at, bytes[at]);
	}
	for (left = len; left-- > 0;)
		if (ftruncate(fd, left) < 0 || !load(t, name, "cut", left))
			return false;
	return pwrite(fd, bytes, len, 0) == len && close(fd) == 0;
}

static int is_small_image(const struct dirent *e)
{
	const char *end = strrchr(e->d_name, '.');

	return end && strcmp(end, ".img") == 0 && strncmp(e->d_name, "pages-", 6) != 0;
}

int main(int argc, char **argv)
{
	struct trial t = { .dir = argc > 1 ? argv[1] : "." };
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC), n;
	struct dirent **names;
	char path[4096];
	bool ok = true;

	log_setup(null, LOG_ERROR);
	snprintf(path, sizeof(path), "%s/ferry-checksums.img", t.dir);
	t.checksums = access(path, F_OK) == 0;
	n = scandir(t.dir, &names, is_small_image, alphasort);
	for (int i = 0; i < n; i++) {
		ok = ok && try_image(&t, names[i]->d_name);
		free(names[i]);
	}
	if (n <= 0 || !ok)
		return 1;
	free(names);
	printf("%lu broken directories, %lu refused\n", t.loads, t.refused);
	return 0;
}
