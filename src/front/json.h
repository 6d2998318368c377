/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json.h - any message, any image, as JSON text.
 *
 * Field names and enum names are the messages'; a field that is not there is
 * left out; bytes are base64; a byte of a string that is no UTF-8 becomes the
 * character of that number (\u0080 to \u00ff).  Numbers are decimal, 64 bits
 * of them too.
 *
 *	{
 *	  "magic": "PIPES_DATA",
 *	  "entries": [
 *	    {
 *	      "pipe_id": 7,
 *	      "bytes": 3,
 *	      "raw_bytes": 3
 *	    }
 *	  ]
 *	}
 *
 * raw_bytes: that many bytes of the image, not shown, follow the record.
 */
#pragma once
#include <protobuf-c/protobuf-c.h>
#include <stdio.h>

#include "base/err.h"

/* One message as an object whose lines after the first are indented by `depth` steps; no newline at the end. */
void json_message(FILE *out, const ProtobufCMessage *message, unsigned int depth);

/* A whole image file.  When it fails in the middle, what was printed is the part before. */
int image_print_json(const char *path, FILE *out, struct err *err);
