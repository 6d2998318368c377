/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "inject/script.h"

void script_init(struct script *s, taddr area, size_t data_max, size_t ops_max)
{
	*s = (struct script){ .area = area, .data_max = data_max, .ops_max = ops_max };
}

void script_clear(struct script *s)
{
	for (size_t i = 0; i < s->names.len; i++)
		free(s->names.at[i]);
	s->names.len = s->ops.len = s->data.len = 0;
	s->overflow = false;
}

void script_free(struct script *s)
{
	script_clear(s);
	vec_free(&s->names);
	vec_free(&s->ops);
	vec_free(&s->data);
}

static size_t ops_bytes(size_t ops)
{
	return sizeof(struct op_header) + ops * sizeof(struct op);
}

/* Sizes may come from far away: nothing is added to them. */
bool script_fits(const struct script *s, size_t ops, size_t data_bytes)
{
	size_t ops_room = (s->ops_max - ops_bytes(s->ops.len)) / sizeof(struct op);
	size_t data_room = s->data_max - s->data.len;

	return ops <= ops_room && data_room >= 16 && data_bytes <= data_room - 16;
}

taddr script_data(struct script *s, const void *bytes, size_t len_bytes)
{
	taddr at;

	if (!script_fits(s, 0, len_bytes)) {
		s->overflow = true;
		return s->area;
	}
	while (s->data.len % 16)
		vec_push(&s->data, 0);
	at = s->area + s->data.len;
	for (size_t i = 0; i < len_bytes; i++)
		vec_push(&s->data, ((const uint8_t *)bytes)[i]);
	return at;
}

void script_add(struct script *s, enum op_want want, uint64_t value, uint32_t nr,
		const uint64_t arg[6], const char *name)
{
	struct op op = { .nr = nr, .want = want, .value = value };

	if (!script_fits(s, 1, 0)) {
		s->overflow = true;
		return;
	}
	memcpy(op.arg, arg, sizeof(op.arg));
	vec_push(&s->ops, op);
	vec_push(&s->names, mem_str(strncmp(name, "SYS_", 4) == 0 ? name + 4 : name));
}

void *script_encode(const struct script *s, size_t *ret_len_bytes)
{
	size_t len = ops_bytes(s->ops.len);
	char *out = mem_new(len);
	struct op_header h = { .count = s->ops.len };

	memcpy(out, &h, sizeof(h));
	if (s->ops.len > 0)
		memcpy(out + sizeof(h), s->ops.at, s->ops.len * sizeof(struct op));
	*ret_len_bytes = len;
	return out;
}

int script_verdict(const struct script *s, const struct op_header *h, struct err *err)
{
	const struct op *op;

	if (h->index == s->ops.len)
		return 0;
	if (h->index > s->ops.len)
		return err_set(err, EBADMSG, "the script came back broken");
	op = &s->ops.at[h->index];
	if (h->result < 0 && h->result >= -4095)
		return err_set(err, (int)-h->result, "%s (%#llx, %#llx, %#llx): %s", s->names.at[h->index],
			       (unsigned long long)op->arg[0], (unsigned long long)op->arg[1],
			       (unsigned long long)op->arg[2], strerror((int)-h->result));
	return err_set(err, EIO, "%s: result %lld, wanted %lld", s->names.at[h->index],
		       (long long)h->result, (long long)op->value);
}
