/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "wire/ps_protocol.h"

#define USER_END     0x800000000000ull
#define OLD_ADD      1u         /* ADD of pages that are here */
#define OLD_HOLE     2u         /* ADD of pages that the parent has */
#define GET          7u         /* of memory that follows later */
#define FLAG_LAZY    2u         /* the sender could have left them for later */
#define SUMMED       0x4d55532d59525246ull      /* as a number of pages, where there are none: "FRRY-SUM" */

struct header { uint32_t command, anything; uint64_t pages, start, id_type; };

void ps_encode(const struct ps_message *m, uint8_t ret_bytes[static PS_HEADER_BYTES])
{
	const struct header h = {
		.command = htole32((uint32_t)m->command | (uint32_t)m->where << 16),
		.pages = htole64(m->summed ? SUMMED : m->pages), .start = htole64(m->summed ? m->sum : m->start), .id_type = htole64(m->id << 8 | (uint64_t)m->type),
	};

	_Static_assert(sizeof(h) == PS_HEADER_BYTES, "a header");
	memcpy(ret_bytes, &h, sizeof(h));
}

/* The command, older forms in today's words; its flags into *flags. */
static uint32_t command_of(uint32_t word, uint32_t *flags)
{
	uint32_t command = word & 0xffff;

	*flags = word >> 16;
	if (command == OLD_ADD || command == OLD_HOLE) {
		*flags = command == OLD_ADD ? PS_HERE : PS_IN_PARENT;
		return PS_ADD;
	}
	return command;
}

static int decode_id(uint64_t id_type, struct ps_message *m, struct err *err)
{
	m->id = id_type >> 8;
	m->type = (enum ps_type)(id_type & 0xff);
	if (m->type == PS_TASK && m->id > 0 && m->id <= INT_MAX)
		return 0;
	if (m->type == PS_SHMEM)
		return 0;
	return err_set(err, EBADMSG, "pages of a thing that there is not (type %u, id %llu)", (unsigned int)m->type,
		       (unsigned long long)m->id);
}

static int decode_run(uint32_t flags, uint64_t start, uint64_t pages, struct ps_message *m, struct err *err)
{
	if (start % PS_PAGE_BYTES || start > USER_END || pages == 0 || pages > (USER_END - start) / PS_PAGE_BYTES)
		return err_set(err, EBADMSG, "%llu pages at %#llx: out of place", (unsigned long long)pages,
			       (unsigned long long)start);
	if ((flags & ~FLAG_LAZY) != PS_HERE && flags != PS_IN_PARENT)
		return err_set(err, EBADMSG, "pages at %#llx that are nowhere (flags %#x)", (unsigned long long)start, flags);
	m->where = flags & PS_HERE ? PS_HERE : PS_IN_PARENT;
	m->start = start;
	m->pages = pages;
	return 0;
}

int ps_decode(const uint8_t bytes[static PS_HEADER_BYTES], struct ps_message *ret, struct err *err)
{
	struct ps_message m = { 0 };
	struct header h;
	uint32_t command, flags;
	int r = 0;

	memcpy(&h, bytes, sizeof(h));
	command = command_of(le32toh(h.command), &flags);
	m.command = (enum ps_command)command;
	m.summed = le64toh(h.pages) == SUMMED && command != PS_ADD;
	m.sum = m.summed ? le64toh(h.start) : 0;
	switch (command) {
	case PS_ADD:
		r = decode_run(flags, le64toh(h.start), le64toh(h.pages), &m, err);
		break;
	case PS_OPEN:
	case PS_OPEN2:
	case PS_PARENT:
		break;
	case PS_CLOSE:
	case PS_FORCE_CLOSE:
		*ret = m;
		return 0;
	case GET:
		return err_set(err, EBADMSG, "it asks for pages: memory that follows later is not handled");
	default:
		return err_set(err, EBADMSG, "command %#x is none of a page server's", command);
	}
	if (r == 0)
		r = decode_id(le64toh(h.id_type), &m, err);
	if (r == 0)
		*ret = m;
	return r;
}
