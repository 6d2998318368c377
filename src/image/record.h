/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record.h - bytes from outside become a message, within limits.
 *
 * protobuf-c checks the encoding; here nesting is limited (its decoder
 * recurses) and so is what a message may cost in memory (a few bytes on disk
 * can ask for hundreds).  The message is the caller's: own_message, or
 * protobuf_c_message_free_unpacked(m, NULL).
 */
#pragma once
#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

#define RECORD_BYTES_MAX (64u << 20)
#define RECORD_DEPTH_MAX 64u

/* NULL: these bytes are no such message. */
ProtobufCMessage *record_unpack(const ProtobufCMessageDescriptor *of, const uint8_t *bytes, size_t len_bytes);

static inline void own_message_drop(void *p)
{
	protobuf_c_message_free_unpacked(*(ProtobufCMessage **)p, NULL);
}

/* own_message FsEntry *fs = NULL; */
#define own_message __attribute__((cleanup(own_message_drop)))
