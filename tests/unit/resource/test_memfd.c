/* SPDX-License-Identifier: Apache-2.0 */
/* memfds: the object and whoever has it open come back; broken records are refused. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/own.h"
#include "lab.h"
#include "resource/shmem.h"

extern const struct file_type memfd_type;

static int new_memfd(const char *name, unsigned int flags, off_t size)
{
	int fd = memfd_create(name, flags | MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	return fd;
}

static int again(int fd, unsigned int flags)
{
	struct err err;
	int new;

	assert_int_equal(shmem_open(fd, flags, &new, &err), 0);
	return new;
}

static ino_t ino_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_ino;
}

/* The first object of the images: its inode number is another one now. */
static void same_object(struct lab *lab, int fd)
{
	struct shmem *o = &lab->seen.shmems.at[0];
	struct stat st;
	char path[32], link[512];
	own_free char *wanted = mem_fmt("/memfd:%s (deleted)", o->name);
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	len = readlink(path, link, sizeof(link) - 1);
	assert_true(len > 0);
	link[len] = '\0';
	assert_string_equal(link, wanted);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, o->size_bytes);
	assert_int_equal(st.st_mode, S_IFREG | o->mode);
	assert_int_equal(st.st_uid, o->uid);
	assert_int_equal(st.st_gid, o->gid);
	assert_int_equal(fcntl(fd, F_GET_SEALS), o->seals);
}

static int cycle(struct lab *lab, int fd)
{
	struct file *f = lab_see(lab, fd);
	int back;

	f->fown = (struct fown){ .uid = 1, .euid = 2, .signal = SIGRTMIN, .pid_type = 1, .pid = 42 };
	lab_save_and_load(lab);
	lab_equal(f, snapshot_file(&lab->back, f->id));
	lab_make(lab);
	back = lab_fd(lab, f->id);
	same_object(lab, back);
	assert_int_equal(lseek(back, 0, SEEK_CUR), lseek(fd, 0, SEEK_CUR));
	assert_int_equal(fcntl(back, F_GETFL), fcntl(fd, F_GETFL));
	return back;
}

static void one_kind_claims_it(void **state)
{
	own_fd fd = new_memfd("x", 0, 0), path = again(fd, O_PATH);

	assert_ptr_equal(lab_claimed_by(*state, fd), &memfd_type);
	assert_ptr_equal(lab_claimed_by(*state, path), &memfd_type);
}

static void it_keeps_size_place_and_mode(void **state)
{
	own_fd fd = new_memfd("plain", 0, 10001);

	assert_int_equal(fchmod(fd, 04640), 0);
	assert_int_equal(lseek(fd, 77, SEEK_SET), 77);
	assert_int_equal(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK), 0);
	cycle(*state, fd);
}

static void any_name_will_do(void **state)
{
	char name[250] = "\n /x/../\\012 (deleted)";

	memset(name + strlen(name), 'n', sizeof(name) - 1 - strlen(name));
	own_fd fd = new_memfd(name, 0, 1);

	cycle(*state, fd);
}

static void no_name_will_do(void **state)
{
	own_fd fd = new_memfd("", MFD_ALLOW_SEALING, 0);

	cycle(*state, fd);
}

static void a_memfd_with_the_name_of_anonymous_memory_is_a_memfd(void **state)
{
	own_fd fd = new_memfd("/dev/zero", MFD_ALLOW_SEALING, 4096);

	cycle(*state, fd);
}

static void seals_are_put_on(void **state)
{
	own_fd fd = new_memfd("sealed", MFD_ALLOW_SEALING, 8192);
	char byte;

	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SEAL), 0);
	int back = cycle(*state, fd);

	assert_int_equal(write(back, "x", 1), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(pread(back, &byte, 1, 0), 1);
}

static void several_descriptions_are_of_one_object(void **state)
{
	struct lab *lab = *state;
	own_fd fd = new_memfd("many", 0, 100), reader = again(fd, O_RDONLY), path = again(fd, O_PATH);
	own_fd other = new_memfd("many", 0, 100);
	uint32_t ids[4];

	assert_int_equal(lseek(fd, 5, SEEK_SET), 5);
	ids[0] = lab_see(lab, fd)->id;
	ids[1] = lab_see(lab, reader)->id;
	ids[2] = lab_see(lab, path)->id;
	ids[3] = lab_see(lab, other)->id;
	assert_int_equal(lab->seen.shmems.len, 2);
	lab_save_and_load(lab);
	lab_make(lab);
	assert_int_equal(ino_of(lab_fd(lab, ids[1])), ino_of(lab_fd(lab, ids[0])));
	assert_int_equal(ino_of(lab_fd(lab, ids[2])), ino_of(lab_fd(lab, ids[0])));
	assert_int_not_equal(ino_of(lab_fd(lab, ids[3])), ino_of(lab_fd(lab, ids[0])));
	assert_int_equal(lseek(lab_fd(lab, ids[0]), 0, SEEK_CUR), 5);
	assert_int_equal(lseek(lab_fd(lab, ids[1]), 0, SEEK_CUR), 0);
	assert_int_equal(fcntl(lab_fd(lab, ids[1]), F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_true(fcntl(lab_fd(lab, ids[2]), F_GETFL) & O_PATH);
}

/* Where the system has no huge pages it can still be made, with nothing in it. */
static void huge_pages_are_refused(void **state)
{
	struct lab *lab = *state;
	own_fd fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);

	if (fd < 0)
		skip();
	assert_ptr_equal(lab_claimed_by(lab, fd), &memfd_type);
	assert_int_equal(lab_try_see(lab, fd), -EOPNOTSUPP);
	assert_non_null(strstr(lab->err.text, "huge pages"));
}

static void broken_records_are_refused(void **state)
{
	struct lab *lab = *state;
	own_fd fd = new_memfd("x", 0, 0);
	own_message FileEntry *rec = lab_record(lab_see(lab, fd));

	LAB_REFUSES(lab, rec, memfd->inode_id, 1);      /* there is no memfd.img yet */
	lab_save_and_load(lab);
	LAB_REFUSES(lab, rec, memfd, NULL);
	LAB_REFUSES(lab, rec, memfd->inode_id, 0);
	LAB_REFUSES(lab, rec, memfd->inode_id, 2);
	LAB_REFUSES(lab, rec, memfd->pos, 1ull << 63);
	LAB_REFUSES(lab, rec, memfd->fown->signum, 65);
	assert_int_equal(lab_try_load(lab, rec), 0);
}

/* Writes a memfd.img of these and loads it. */
static int load_inodes(struct lab *lab, const MemfdInodeEntry *recs, size_t n)
{
	own_free char *dir = mem_fmt("%s/inodes", lab->dir), *path = mem_fmt("%s/memfd.img", dir);
	own_store *in = NULL;
	struct snapshot s = { 0 };
	int r;

	(void)unlink(path);
	{
		own_store *out = NULL;
		own_writer *w = NULL;

		assert_int_equal(store_create_dir(dir, &out, &lab->err), 0);
		assert_int_equal(image_create(out, IMAGE_MEMFD_INODE, 0, &w, &lab->err), 0);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(image_put(w, &recs[i].base, &lab->err), 0);
		assert_int_equal(image_finish(&w, &lab->err), 0);
	}
	assert_int_equal(store_open_dir(dir, &in, &lab->err), 0);
	r = shmem_load(&s, in, &lab->err);
	snapshot_free(&s);
	return r;
}

#define REFUSES_INODE(lab, rec, field, value, error) do {                               \
		__typeof__((rec)->field) was_ = (rec)->field;                           \
		(rec)->field = value;                                                   \
		assert_int_equal(load_inodes(lab, rec, 1), error);                      \
		(rec)->field = was_;                                                    \
	} while (0)

static void broken_inodes_are_refused(void **state)
{
	struct lab *lab = *state;
	char name[251] = "";
	MemfdInodeEntry rec = MEMFD_INODE_ENTRY__INIT;

	memset(name, 'x', sizeof(name) - 1);
	rec.name = (char[]){ "x" };
	rec.inode_id = 7;
	rec.shmid = 9;
	assert_int_equal(load_inodes(lab, &rec, 1), 0);
	REFUSES_INODE(lab, &rec, inode_id, 0, -EBADMSG);
	REFUSES_INODE(lab, &rec, inode_id, 1ull << 32, -EBADMSG);
	REFUSES_INODE(lab, &rec, size, 1ull << 63, -EBADMSG);
	REFUSES_INODE(lab, &rec, seals, 0x40, -EBADMSG);
	REFUSES_INODE(lab, &rec, name, name, -EBADMSG);
	rec.has_hugetlb_flag = 1;
	REFUSES_INODE(lab, &rec, hugetlb_flag, 21u << 26, -EOPNOTSUPP);

	MemfdInodeEntry two[2] = { rec, rec };

	two[1].inode_id = 8;
	assert_int_equal(load_inodes(lab, two, 2), -EBADMSG);
	two[1].inode_id = 7;
	two[1].shmid = 10;
	assert_int_equal(load_inodes(lab, two, 2), -EBADMSG);
	two[1].inode_id = 8;
	assert_int_equal(load_inodes(lab, two, 2), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAB_TEST(one_kind_claims_it),
		LAB_TEST(it_keeps_size_place_and_mode),
		LAB_TEST(any_name_will_do),
		LAB_TEST(no_name_will_do),
		LAB_TEST(a_memfd_with_the_name_of_anonymous_memory_is_a_memfd),
		LAB_TEST(seals_are_put_on),
		LAB_TEST(several_descriptions_are_of_one_object),
		LAB_TEST(huge_pages_are_refused),
		LAB_TEST(broken_records_are_refused),
		LAB_TEST(broken_inodes_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
