/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/own.h"
#include "engine/preflight.h"
#include "kernel/arch/x86_64/cpu.h"
#include "kernel/probe.h"

struct wire_need {
	uint32_t kind, flags;
	uint64_t a, b;
	uint8_t id[BUILD_ID_BYTES];
	uint32_t text_len;              /* so many bytes follow */
};

void need_list_free(struct need_list *list)
{
	for (size_t i = 0; i < list->needs.len; i++)
		free(list->needs.at[i].text);
	vec_free(&list->needs);
}

/* ---- over the wire ---- */

static int send_buffer(const uint8_t *buf, size_t len, struct frame_out *out, struct err *err)
{
	struct iovec part = { (void *)(uintptr_t)buf, len };

	return len == 0 ? 0 : frame_put(out, FRAME_CHECK, &part, 1, err);
}

int need_list_send(const struct need_list *list, struct frame_out *out, struct err *err)
{
	own_free uint8_t *buf = mem_new(FRAME_BYTES_MAX);
	size_t len = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < list->needs.len; i++) {
		const struct need *n = &list->needs.at[i];
		struct wire_need w = { .kind = n->kind, .flags = n->flags, .a = n->a, .b = n->b,
				       .text_len = n->text ? (uint32_t)strlen(n->text) : 0 };

		memcpy(w.id, n->id, sizeof(w.id));
		if (len + sizeof(w) + w.text_len > FRAME_BYTES_MAX) {
			r = send_buffer(buf, len, out, err);
			len = 0;
		}
		memcpy(buf + len, &w, sizeof(w));
		memcpy(buf + len + sizeof(w), n->text ? n->text : "", w.text_len);
		len += sizeof(w) + w.text_len;
	}
	if (r == 0)
		r = send_buffer(buf, len, out, err);
	return r < 0 ? r : frame_put(out, FRAME_CHECK, NULL, 0, err);
}

/* A path that is looked up, or a name that is printed: neither has control characters. */
static bool is_text(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (bytes[i] < ' ' || bytes[i] == 0x7f)
			return false;
	return len <= NEED_TEXT_MAX;
}

static int take_need(struct need_list *list, const uint8_t *at, size_t left, size_t *ret_taken, struct err *err)
{
	struct wire_need w;
	struct need *n;

	if (left < sizeof(w) || list->needs.len >= NEEDS_MAX || list->text_bytes >= NEEDS_TEXT_MAX)
		return err_set(err, EBADMSG, "a list of needs is broken");
	memcpy(&w, at, sizeof(w));
	if (w.kind == 0 || w.kind >= NEED_KINDS || w.text_len > left - sizeof(w) || !is_text(at + sizeof(w), w.text_len) ||
	    (w.kind == NEED_FILE && (w.text_len == 0 || at[sizeof(w)] != '/')) ||
	    (w.kind == NEED_PID && (w.a == 0 || w.a > INT32_MAX)))
		return err_set(err, EBADMSG, "a list of needs is broken");
	n = vec_add(&list->needs);
	*n = (struct need){ .kind = w.kind, .flags = w.flags, .a = w.a, .b = w.b };
	memcpy(n->id, w.id, sizeof(n->id));
	if (w.text_len > 0) {
		n->text = mem_new(w.text_len + 1);
		memcpy(n->text, at + sizeof(w), w.text_len);
	}
	list->text_bytes += w.text_len;
	*ret_taken = sizeof(w) + w.text_len;
	return 0;
}

static int take_frame(struct need_list *list, const struct frame *f, struct err *err)
{
	int r = f->type == FRAME_CHECK ? 0 : err_set(err, EBADMSG, "a list of needs ends in the middle");

	for (size_t done = 0, taken = 0; r == 0 && done < f->len_bytes; done += taken)
		r = take_need(list, f->bytes + done, f->len_bytes - done, &taken, err);
	return r;
}

int need_list_take(struct need_list *ret, struct frame_in *in, const struct frame *first, struct err *err)
{
	int r = first ? take_frame(ret, first, err) : 0;
	bool end = first && first->len_bytes == 0;

	while (r == 0 && !end) {
		struct frame f;

		r = frame_get(in, &f, err);
		if (r < 0)
			return r;
		r = take_frame(ret, &f, err);
		end = f.len_bytes == 0;
		free(f.bytes);
	}
	return r;
}

/* ---- what is in the way ---- */

static void block(struct preflight_blocks *to, const char *remedy, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void block(struct preflight_blocks *to, const char *remedy, const char *fmt, ...)
{
	struct preflight_block *b = vec_add(&to->blocks);
	va_list args;

	b->remedy = remedy;
	va_start(args, fmt);
	vsnprintf(b->what, sizeof(b->what), fmt, args);
	va_end(args);
}

void preflight_refusal(struct preflight_blocks *to, const struct err *why)
{
	static const struct { const char *word, *remedy; } remedies[] = {
		{ "namespace", "run ferry in the program's own namespaces (nsenter -a -t PID)" },
		{ "seccomp", "start the program without the filter" },
		{ "lock", "have the program release the lock for the move" },
		{ "connect", "have the other end disconnect for the move" },
		{ "32-bit", "use a 64-bit build" },
		{ "mapping ", "have the program unmap it for the move" },
		{ "fd ", "have the program close it for the move" },
		{ "", "end that task, or move another tree" },
	};
	size_t i = 0;

	while (!strstr(why->text, remedies[i].word) && !strstr(why->scope, remedies[i].word))
		i++;
	block(to, remedies[i].remedy, "%s%s%s", why->scope, why->scope[0] ? ": " : "", why->text);
}

static void compare_pid(const struct need *w, const struct need *have, struct preflight_blocks *to)
{
	if (have->b == PID_TAKEN)
		block(to, "end who has it there, or receive in a pid namespace of its own (unshare --pid --fork --mount-proc)",
		      "pid %" PRIu64 " is taken by another task", w->a);
	else if (have->b == PID_TOO_LARGE)
		block(to, "raise /proc/sys/kernel/pid_max there", "process id %" PRIu64 " is above the largest one", w->a);
}

static void compare_file(const struct need *w, const struct need *have, struct preflight_blocks *to)
{
	static const char install[] = "install the same version there, or bring it along with --sync";
	static const uint8_t none[BUILD_ID_BYTES];

	if (have->b == 0)
		block(to, install, "%.400s is missing", w->text);
	else if (have->b != w->b)
		block(to, install, "%.400s is another kind of file", w->text);
	else if (!(w->flags & NEED_MAPPED) || w->b != S_IFREG)
		return;
	else if (memcmp(w->id, none, sizeof(none)) != 0 && memcmp(have->id, w->id, sizeof(none)) != 0)
		block(to, install, "%.400s is another build: its build-id differs", w->text);
	else if (have->a != w->a)
		block(to, install, "%.400s is mapped and has another size: %" PRIu64 " bytes, here %" PRIu64, w->text, have->a, w->a);
}

static void compare_cpu(const struct need *w, const struct need *have, struct preflight_blocks *to)
{
	uint64_t sets = w->a & ~have->a, state = w->b & ~have->b;
	char names[400] = "";

	for (unsigned int i = 0; cpu_set_names[i]; i++)
		if (sets >> i & 1)
			snprintf(names + strlen(names), sizeof(names) - strlen(names), " %s", cpu_set_names[i]);
	if (names[0])
		block(to, "a machine with at least the same processor; or start the program with GLIBC_TUNABLES so that it does without",
		      "the processor has no%s", names);
	if (state)
		block(to, "a machine with at least the same processor", "the processor's state has no components %#" PRIx64, state);
}

static const char *what_is_lost(const struct need *w)
{
	const struct probe *p = w->text ? probe_find(w->text) : NULL;

	return p ? p->what : "?";
}

static void compare_address(const struct need *w, const struct need *have, struct preflight_blocks *to)
{
	if (have->b == EADDRINUSE)
		block(to, "end who listens there, or receive in a network namespace of its own", "the address %s is in use", w->text);
	else if (have->b != 0)
		block(to, "give the machine that address before the program comes", "%s: %s", w->text, strerror((int)have->b));
}

static void compare_need(const struct need *w, const struct need *have, struct preflight_blocks *to)
{
	switch (w->kind) {
	case NEED_PID:
		compare_pid(w, have, to);
		break;
	case NEED_FILE:
		compare_file(w, have, to);
		break;
	case NEED_CPU:
		compare_cpu(w, have, to);
		break;
	case NEED_VDSO:
		if (w->a != have->a || w->b != have->b)
			block(to, "run the same kernel on both", "the kernel has another vdso");
		break;
	case NEED_FEATURE:
		if (have->a == 0)
			block(to, "a kernel that has it, and root's rights (ferry check there)", "the kernel does not offer %s",
			      what_is_lost(w));
		break;
	case NEED_MEMORY:
		if (have->a < w->a)
			block(to, "free some memory there", "%" PRIu64 " MiB of memory are available, %" PRIu64 " are needed",
			      have->a >> 20, w->a >> 20);
		break;
	default:
		compare_address(w, have, to);
	}
}

int preflight_compare(const struct need_list *wanted, const struct need_list *answer, struct preflight_blocks *ret,
		      struct err *err)
{
	if (answer->needs.len != wanted->needs.len)
		return err_set(err, EBADMSG, "the target answers to another list");
	for (size_t i = 0; i < wanted->needs.len; i++) {
		if (answer->needs.at[i].kind != wanted->needs.at[i].kind)
			return err_set(err, EBADMSG, "the target answers to another list");
		compare_need(&wanted->needs.at[i], &answer->needs.at[i], ret);
	}
	return 0;
}
