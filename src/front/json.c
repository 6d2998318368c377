/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "front/json.h"
#include "image/walk.h"

static void new_line(FILE *out, unsigned int depth)
{
	fprintf(out, "\n%*s", (int)depth * 2, "");
}

/* Bytes of the UTF-8 character at s, 0 when it is none (the end of the string is in the way of too short ones). */
static unsigned int utf8_len(const unsigned char *s)
{
	unsigned int n = s[0] < 0x80 ? 1 : (s[0] & 0xe0) == 0xc0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : (s[0] & 0xf8) == 0xf0 ? 4 : 0;
	uint32_t c = n == 1 ? s[0] : n == 2 ? s[0] & 0x1f : n == 3 ? s[0] & 0x0f : s[0] & 0x07;
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };

	for (unsigned int i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : n;
}

static void print_string(FILE *out, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	fputc('"', out);
	while (*s) {
		unsigned int n = utf8_len(s);

		if (*s == '"' || *s == '\\')
			fprintf(out, "\\%c", *s);
		else if (n == 0 || *s < 0x20 || *s == 0x7f)
			fprintf(out, "\\u%04x", *s);
		else
			fwrite(s, 1, n, out);
		s += n ? n : 1;
	}
	fputc('"', out);
}

static void print_base64(FILE *out, const ProtobufCBinaryData *bytes)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	fputc('"', out);
	for (size_t i = 0; i < bytes->len; i += 3) {
		size_t left = bytes->len - i;
		uint32_t bits = (uint32_t)bytes->data[i] << 16 | (left > 1 ? (uint32_t)bytes->data[i + 1] << 8 : 0) |
				(left > 2 ? bytes->data[i + 2] : 0u);

		fputc(digits[bits >> 18], out);
		fputc(digits[bits >> 12 & 63], out);
		fputc(left > 1 ? digits[bits >> 6 & 63] : '=', out);
		fputc(left > 2 ? digits[bits & 63] : '=', out);
	}
	fputc('"', out);
}

static void print_enum(FILE *out, const ProtobufCEnumDescriptor *of, int value)
{
	const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value(of, value);

	if (known)
		print_string(out, known->name);
	else
		fprintf(out, "%d", value);
}

static size_t size_of(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64: case PROTOBUF_C_TYPE_SINT64: case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64: case PROTOBUF_C_TYPE_FIXED64: case PROTOBUF_C_TYPE_DOUBLE:
		return sizeof(uint64_t);
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_STRING: case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return sizeof(uint32_t);
	}
}

static void print_value(FILE *out, const ProtobufCFieldDescriptor *field, const void *at, unsigned int depth)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32: case PROTOBUF_C_TYPE_SINT32: case PROTOBUF_C_TYPE_SFIXED32:
		fprintf(out, "%" PRId32, *(const int32_t *)at);
		break;
	case PROTOBUF_C_TYPE_UINT32: case PROTOBUF_C_TYPE_FIXED32:
		fprintf(out, "%" PRIu32, *(const uint32_t *)at);
		break;
	case PROTOBUF_C_TYPE_INT64: case PROTOBUF_C_TYPE_SINT64: case PROTOBUF_C_TYPE_SFIXED64:
		fprintf(out, "%" PRId64, *(const int64_t *)at);
		break;
	case PROTOBUF_C_TYPE_UINT64: case PROTOBUF_C_TYPE_FIXED64:
		fprintf(out, "%" PRIu64, *(const uint64_t *)at);
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		fprintf(out, "%.9g", (double)*(const float *)at);
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		fprintf(out, "%.17g", *(const double *)at);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		fputs(*(const protobuf_c_boolean *)at ? "true" : "false", out);
		break;
	case PROTOBUF_C_TYPE_ENUM:
		print_enum(out, field->descriptor, *(const int *)at);
		break;
	case PROTOBUF_C_TYPE_STRING:
		print_string(out, *(const char *const *)at);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		print_base64(out, at);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		json_message(out, *(const ProtobufCMessage *const *)at, depth);
		break;
	}
}

/* Messages on lines of their own, numbers on one. */
static void print_list(FILE *out, const ProtobufCFieldDescriptor *field, const char *at, size_t n, unsigned int depth)
{
	bool lines = field->type == PROTOBUF_C_TYPE_MESSAGE;

	fputc('[', out);
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			fputs(lines ? "," : ", ", out);
		if (lines)
			new_line(out, depth + 1);
		print_value(out, field, at + i * size_of(field->type), depth + 1);
	}
	if (lines)
		new_line(out, depth);
	fputc(']', out);
}

static bool is_there(const ProtobufCFieldDescriptor *field, const char *base)
{
	switch (field->label) {
	case PROTOBUF_C_LABEL_REPEATED:
		return *(const size_t *)(const void *)(base + field->quantifier_offset) > 0;
	case PROTOBUF_C_LABEL_OPTIONAL:
		if (field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE)
			return *(const void *const *)(const void *)(base + field->offset);
		return *(const protobuf_c_boolean *)(const void *)(base + field->quantifier_offset);
	default:
		return true;
	}
}

static void print_fields(FILE *out, const ProtobufCMessage *message, unsigned int depth, bool *ret_any)
{
	const char *base = (const char *)message;
	bool any = false;

	for (unsigned int i = 0; i < message->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
		const char *at = base + field->offset;

		if (!is_there(field, base))
			continue;
		fputs(any ? "," : "", out);
		any = true;
		new_line(out, depth + 1);
		fprintf(out, "\"%s\": ", field->name);
		if (field->label == PROTOBUF_C_LABEL_REPEATED)
			print_list(out, field, *(const char *const *)(const void *)at,
				   *(const size_t *)(const void *)(base + field->quantifier_offset), depth + 1);
		else
			print_value(out, field, at, depth + 1);
	}
	*ret_any = any;
}

static void print_record(FILE *out, const ProtobufCMessage *message, uint64_t raw_bytes, unsigned int depth)
{
	bool any;

	fputc('{', out);
	print_fields(out, message, depth, &any);
	if (raw_bytes > 0) {
		fputs(any ? "," : "", out);
		any = true;
		new_line(out, depth + 1);
		fprintf(out, "\"raw_bytes\": %" PRIu64, raw_bytes);
	}
	if (any)
		new_line(out, depth);
	fputc('}', out);
}

void json_message(FILE *out, const ProtobufCMessage *message, unsigned int depth)
{
	print_record(out, message, 0, depth);
}

struct printer {
	FILE *out;
	bool any;
};

static int print_entry(void *context, const ProtobufCMessage *record, bool child, uint64_t raw_bytes, struct err *err)
{
	struct printer *p = context;

	(void)child, (void)err;
	fputs(p->any ? "," : "", p->out);
	p->any = true;
	new_line(p->out, 2);
	print_record(p->out, record, raw_bytes, 2);
	return 0;
}

int image_print_json(const char *path, FILE *out, struct err *err)
{
	own_reader *reader = NULL;
	struct printer p = { .out = out };
	const struct image_type *t;
	int r;

	r = image_open_path(path, &reader, err);
	if (r < 0)
		return r;
	t = &image_types[image_kind_of(reader)];
	fprintf(out, "{\n  \"magic\": \"%s\",", t->name);
	if (!t->record)
		fprintf(out, "\n  \"raw_bytes\": %" PRIu64 ",", image_left(reader));
	fputs("\n  \"entries\": [", out);
	r = image_walk(reader, print_entry, &p, err);
	if (r < 0)
		return r;
	fputs(p.any ? "\n  ]\n}\n" : "]\n}\n", out);
	return ferror(out) ? err_set(err, EIO, "%s: can't print it all", path) : 0;
}
