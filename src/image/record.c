/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "image/record.h"

/* What a decoded message may cost: a base, and so many bytes for each byte on disk. */
#define COST_BASE   (64u << 10)
#define COST_FACTOR 64u
#define COST_MAX    (256ull << 20)

struct span { const uint8_t *at, *end; };

static bool get_varint(struct span *s, uint64_t *ret)
{
	uint64_t value = 0;

	for (unsigned int shift = 0; shift < 64 && s->at < s->end; shift += 7) {
		uint8_t byte = *s->at++;

		value |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80) {
			*ret = value;
			return true;
		}
	}
	return false;
}

static bool shallow(const ProtobufCMessageDescriptor *of, struct span s, unsigned int depth);

/* What is behind one key: stepped over, and looked into where it is a message. */
static bool shallow_field(const ProtobufCMessageDescriptor *of, uint64_t key, struct span *s, unsigned int depth)
{
	const ProtobufCFieldDescriptor *field;
	struct span inner;
	uint64_t n = 0;

	switch (key & 7) {
	case PROTOBUF_C_WIRE_TYPE_VARINT:
		return get_varint(s, &n);
	case PROTOBUF_C_WIRE_TYPE_64BIT:
		n = 8;
		break;
	case PROTOBUF_C_WIRE_TYPE_32BIT:
		n = 4;
		break;
	case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
		if (!get_varint(s, &n))
			return false;
		break;
	default:
		return false;
	}
	if (n > (uint64_t)(s->end - s->at))
		return false;
	inner = (struct span){ s->at, s->at + n };
	s->at += n;
	if ((key & 7) != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED || key >> 3 > UINT32_MAX)
		return true;
	field = protobuf_c_message_descriptor_get_field(of, (unsigned int)(key >> 3));
	return !field || field->type != PROTOBUF_C_TYPE_MESSAGE || shallow(field->descriptor, inner, depth + 1);
}

static bool shallow(const ProtobufCMessageDescriptor *of, struct span s, unsigned int depth)
{
	uint64_t key;

	if (depth > RECORD_DEPTH_MAX)
		return false;
	while (s.at < s.end)
		if (!get_varint(&s, &key) || !shallow_field(of, key, &s, depth))
			return false;
	return true;
}

static void *budget_alloc(void *left, size_t size)
{
	uint64_t *budget = left;

	if (size > *budget)
		return NULL;
	*budget -= size;
	return malloc(size);
}

static void budget_free(void *left, void *p)
{
	(void)left;
	free(p);
}

ProtobufCMessage *record_unpack(const ProtobufCMessageDescriptor *of, const uint8_t *bytes, size_t len_bytes)
{
	uint64_t budget = COST_BASE + (uint64_t)len_bytes * COST_FACTOR;
	ProtobufCAllocator allocator = { .alloc = budget_alloc, .free = budget_free, .allocator_data = &budget };

	if (budget > COST_MAX)
		budget = COST_MAX;
	if (!shallow(of, (struct span){ bytes, bytes + len_bytes }, 1))
		return NULL;
	return protobuf_c_message_unpack(of, &allocator, len_bytes, bytes);
}
