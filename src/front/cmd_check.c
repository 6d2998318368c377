/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_check.c - what this kernel offers.
 *
 *	check                 the doors that nothing works without, and how changes of memory are found
 *	check --all           every door, and what comes back of each kind of resource
 *	check --feature NAME  one door: the exit status is the answer
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "front/command.h"
#include "kernel/probe.h"
#include "page/tracker.h"
#include "resource/resource.h"

static bool is_open(const struct probe *probe, struct err *err)
{
	return probe->door(err) == 0;
}

static int check_feature(const char *name, struct err *err)
{
	const struct probe *probe = probe_find(name);
	struct err why;

	if (strcmp(name, "list") == 0) {
		for (size_t i = 0; i < probe_count; i++)
			puts(probe_table[i].name);
		return 0;
	}
	if (!probe)
		return err_set(err, EINVAL, "no such feature: %s (--feature list tells them)", name);
	if (!is_open(probe, &why))
		return err_set(err, EOPNOTSUPP, "%s is not supported: %s", name, why.text);
	printf("%s is supported\n", name);
	return 0;
}

static void print_door(const struct probe *probe, bool open, const struct err *why)
{
	printf("%-26s %-7s  %s", probe->name, open ? "yes" : probe->needed ? "MISSING" : "no", probe->what);
	if (!open)
		printf("; lost: %s (%s)", probe->lost, why->text);
	putchar('\n');
}

static void print_kind(const char *name, const char *lost)
{
	printf("%-26s %s%s\n", name, lost ? "comes back, but not: " : "comes back", lost ? lost : "");
}

static void print_kinds(void)
{
	puts("\nOpen files:");
	for (size_t i = 0; file_types[i]; i++)
		print_kind(file_types[i]->name, file_types[i]->lost);
	puts("\nTasks:");
	for (size_t i = 0; task_kinds[i]; i++)
		print_kind(task_kinds[i]->name, task_kinds[i]->lost);
	puts("\nThreads:");
	for (size_t i = 0; thread_kinds[i]; i++)
		print_kind(thread_kinds[i]->name, thread_kinds[i]->lost);
	putchar('\n');
}

/* By what incremental dumps and pre-dumps find changes. */
static void print_tracker(void)
{
	struct kernel_features features;
	const char *why;
	enum tracker_kind kind;

	kernel_features_ask(false, &features);
	kind = tracker_choose(&features, &why);
	printf("Tracker: %s (%s)\n", tracker_name(kind), why);
}

static int check_doors(bool all)
{
	unsigned int missing = 0, missing_needed = 0;
	struct err why;

	if (all)
		puts("Kernel:");
	for (size_t i = 0; i < probe_count; i++) {
		const struct probe *probe = &probe_table[i];
		bool open;

		if (!all && !probe->needed)
			continue;
		open = is_open(probe, &why);
		missing += !open;
		missing_needed += !open && probe->needed;
		if (all || !open)
			print_door(probe, open, &why);
	}
	if (all)
		print_kinds();
	print_tracker();
	if (missing_needed)
		puts("Does not look good.");
	else
		puts(missing ? "Looks good but some features are missing." : "Looks good.");
	return missing ? 1 : 0;
}

int cmd_check(const struct options *options, struct err *err)
{
	return options->feature ? check_feature(options->feature, err) : check_doors(options->all);
}
