/* SPDX-License-Identifier: Apache-2.0 */
/* wire.h - the other side of a connection, as options name it. */
#pragma once
#include "engine/destination.h"
#include "front/options.h"

struct wire_options {
	struct server_address address;
	struct tls_options tls;
	char port[12];
};

/* Points into *ret and *options: neither may move. */
void wire_options(const struct options *options, struct wire_options *ret);
