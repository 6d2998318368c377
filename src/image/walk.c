/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "image/walk.h"

struct walk {
	struct image_reader *reader;
	image_visitor *visit;
	void *context;
};

/* One record and its raw bytes: 1 when there was one, 0 at the end. */
static int step(struct walk *w, const ProtobufCMessageDescriptor *of, bool child, const ProtobufCMessageDescriptor **ret_child,
		uint64_t *ret_children, struct err *err)
{
	own_message ProtobufCMessage *record = NULL;
	uint64_t raw_bytes;
	int r;

	r = image_get(w->reader, of, &record, err);
	if (r <= 0)
		return r;
	raw_bytes = image_payload(record);
	if (raw_bytes == UINT64_MAX)
		raw_bytes = image_left(w->reader);
	r = image_skip(w->reader, raw_bytes, err);
	if (r == 0)
		r = w->visit(w->context, record, child, raw_bytes, err);
	*ret_children = image_children(record, ret_child);
	return r < 0 ? r : 1;
}

static int walk_children(struct walk *w, const ProtobufCMessageDescriptor *of, uint64_t children, struct err *err)
{
	const ProtobufCMessageDescriptor *none;
	uint64_t grandchildren;
	int r = 1;

	for (uint64_t i = 0; i < children && r > 0; i++) {
		r = step(w, of, true, &none, &grandchildren, err);
		if (r == 0 && children != UINT64_MAX)
			return err_set(err, EBADMSG, "%s: ends after %llu of %llu records", image_name_of(w->reader),
				       (unsigned long long)i, (unsigned long long)children);
	}
	return r < 0 ? r : 0;
}

int image_walk(struct image_reader *reader, image_visitor *visit, void *context, struct err *err)
{
	const struct image_type *t = &image_types[image_kind_of(reader)];
	struct walk w = { reader, visit, context };
	const ProtobufCMessageDescriptor *child = NULL;
	uint64_t children;
	int r;

	if (!t->record)
		return 0;
	do {
		r = step(&w, t->record, false, &child, &children, err);
		if (r > 0 && children > 0) {
			int rc = walk_children(&w, child, children, err);

			if (rc < 0)
				return rc;
		}
	} while (r > 0 && !t->single);
	if (r > 0 && image_left(reader) > 0)
		return err_set(err, EBADMSG, "%s: has %llu bytes after its one record", image_name_of(reader),
			       (unsigned long long)image_left(reader));
	return r < 0 ? r : 0;
}
