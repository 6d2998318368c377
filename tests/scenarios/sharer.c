/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sharer OUT watch: tracks its own memory by a userfaultfd. On SIGUSR1 it says how many of the WRITTEN pages that it
 * wrote its tracker tells of.
 * sharer OUT clone: shares its memory with a child. On SIGUSR1 it writes to each page once, slowly, and says "wrote"; on
 * SIGUSR2 it ends the child, and says "alone"; on SIGHUP it says what the memory has.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE    4096u
#define PAGES   16384u
#define WRITTEN 5u
#define BATCH   16u
#define STACK   65536

static const char *out;
static volatile uint8_t *mem;

struct scan { uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, ret_mask; };

static void say(const char *word, unsigned long number)
{
	FILE *f = fopen(out, "a");

	fprintf(f, "%s %lu\n", word, number);
	fclose(f);
}

/* Finds and protects. */
static unsigned long take(int pagemap)
{
	uint64_t regions[3 * 64];
	struct scan scan = { .size = sizeof(scan), .flags = 3, .start = (uintptr_t)mem, .end = (uintptr_t)mem + PAGES * PAGE,
			     .vec = (uintptr_t)regions, .vec_len = 64, .mask = 2, .ret_mask = 2 };
	int n = ioctl(pagemap, _IOWR('f', 16, struct scan), &scan);
	unsigned long pages = 0;

	for (int i = 0; i < n; i++)
		pages += (regions[3 * i + 1] - regions[3 * i]) / PAGE;
	return pages;
}

static void watch(const sigset_t *wanted)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1), pagemap = open("/proc/self/pagemap", O_RDONLY);
	struct uffdio_api api = { .api = UFFD_API, .features = 1 << 13 | 1 << 15 };
	struct uffdio_register reg = { .range = { (uintptr_t)mem, PAGES * PAGE }, .mode = UFFDIO_REGISTER_MODE_WP };
	int sig;

	if (ioctl(uffd, UFFDIO_API, &api) < 0 || ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		exit(3);
	take(pagemap);
	for (unsigned int i = 0; i < WRITTEN; i++)
		mem[2 * i * PAGE] = 7;
	say("ready", 0);
	sigwait(wanted, &sig);
	say("seen", take(pagemap));
}

__attribute__((noreturn))
static int be_there(void *arg)
{
	(void)arg;
	for (;;)
		pause();
}

static void write_slowly(uint8_t what)
{
	for (unsigned int i = 0; i < PAGES; i++) {
		mem[i * PAGE] = what;
		if (i % BATCH == 0)
			usleep(300);
	}
}

static unsigned long sum(void)
{
	unsigned long n = 0;

	for (unsigned int i = 0; i < PAGES; i++)
		n += mem[i * PAGE];
	return n;
}

static void share(const sigset_t *wanted)
{
	pid_t child = 0;

	say("ready", 0);
	for (int sig; sigwait(wanted, &sig) == 0;) {
		if (sig == SIGUSR1) {
			child = clone(be_there, (char *)malloc(STACK) + STACK, CLONE_VM | SIGCHLD, NULL);
			say("shares", (unsigned long)child);
			write_slowly(9);
			say("wrote", 0);
		} else if (sig == SIGUSR2) {
			kill(child, SIGKILL);
			waitpid(child, NULL, 0);
			say("alone", 0);
		} else {
			say("sum", sum());
		}
	}
}

int main(int argc, char **argv)
{
	sigset_t wanted;

	if (argc < 3)
		return 2;
	out = argv[1];
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGUSR1);
	sigaddset(&wanted, SIGUSR2);
	sigaddset(&wanted, SIGHUP);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset((void *)mem, 1, PAGES * PAGE);
	if (strcmp(argv[2], "watch") == 0)
		watch(&wanted);
	else
		share(&wanted);
	for (;;)
		pause();
}
