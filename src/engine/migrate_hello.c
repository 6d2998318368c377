/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <xxhash.h>

#include "engine/migrate_hello.h"
#include "engine/vdso.h"
#include "inject/vessel.h"

static int vdso_sum(uint64_t *ret_sum, struct err *err)
{
	const char *code = (const char *)getauxval(AT_SYSINFO_EHDR);
	struct vdso own;
	int r = vdso_own(&own, err);

	*ret_sum = 0;
	for (unsigned int i = 0; r == 0 && i < own.parts; i++)
		if (own.part[i].code)
			*ret_sum = XXH3_64bits(code, own.part[i].len_bytes);
	return r;
}

static int make(struct migrate_hello *ret, const struct hello_words *words, struct err *err)
{
	*ret = (struct migrate_hello){ .version = MIGRATE_VERSION, .flags = words->flags, .channels = words->channels };
	if (getrandom(ret->number, sizeof(ret->number), 0) != sizeof(ret->number))
		return err_sys(err, "getrandom");
	return vdso_sum(&ret->vdso, err);
}

int migrate_words(const struct frame *f, const char *peer, struct migrate_say *ret, struct err *err)
{
	if (f->type != FRAME_SAY || f->len_bytes != sizeof(*ret))
		return err_set(err, EBADMSG, "%s answers something else", peer);
	memcpy(ret, f->bytes, sizeof(*ret));
	ret->text[sizeof(ret->text) - 1] = '\0';
	for (char *c = ret->text; *c; c++)
		*c = (unsigned char)*c < ' ' ? '?' : *c;
	return ret->word == SAY_FAILED ? err_set(err, EREMOTEIO, "the target: %s", ret->text) : 0;
}

static int put(struct frame_out *out, const struct migrate_hello *ours, struct err *err)
{
	struct iovec part = { (void *)(uintptr_t)ours, sizeof(*ours) };

	return frame_put(out, FRAME_HELLO, &part, 1, err);
}

/* A frame of just this length. */
static int take(struct frame_in *in, void *ret, size_t len_bytes, const char *peer, struct err *err)
{
	struct frame f;
	int r = frame_get(in, &f, err);

	if (r < 0)
		return r;
	if (f.type != FRAME_HELLO || f.len_bytes != len_bytes)
		r = err_set(err, EPROTO, "%s is no ferry of this version", peer);
	else
		memcpy(ret, f.bytes, len_bytes);
	free(f.bytes);
	return r;
}

static int check(struct frame_out *out, struct frame_in *in, const struct migrate_hello *ours, const char *peer,
		 struct hello_words *ret_theirs, struct err *err)
{
	struct migrate_hello theirs;
	struct iovec part = { theirs.number, sizeof(theirs.number) };
	uint64_t echo[2];
	int r = take(in, &theirs, sizeof(theirs), peer, err);

	if (r < 0)
		return r;
	if (theirs.version != MIGRATE_VERSION)
		return err_set(err, EPROTO, "%s has version %u of this protocol, this ferry %u", peer, theirs.version, MIGRATE_VERSION);
	if (theirs.vdso != ours->vdso)
		return err_set(err, EOPNOTSUPP, "%s has another vdso: it runs another kernel", peer);
	r = frame_put(out, FRAME_HELLO, &part, 1, err);
	if (r == 0)
		r = take(in, echo, sizeof(echo), peer, err);
	if (r < 0)
		return r;
	*ret_theirs = (struct hello_words){ theirs.flags, theirs.channels };
	return memcmp(echo, ours->number, sizeof(echo)) == 0 ? 0 :
	       err_set(err, EKEYREJECTED, "%s does not answer to what was asked: it plays back another migration", peer);
}

int migrate_hello(struct frame_out *out, struct frame_in *in, struct transport *transport, const struct hello_words *words,
		  struct hello_words *ret_theirs, struct err *err)
{
	struct migrate_hello ours;
	int r = make(&ours, words, err);

	if (r == 0)
		r = frame_out_begin_on(out, transport, err);
	if (r == 0)
		r = put(out, &ours, err);
	if (r == 0)
		r = frame_in_begin_on(in, transport, err);
	return r < 0 ? r : check(out, in, &ours, transport->peer, ret_theirs, err);
}
