/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <stdio.h>

#include "front/wire.h"

void wire_options(const struct options *options, struct wire_options *ret)
{
	ret->tls = (struct tls_options){
		.ca = options->tls_cacert, .revoked = options->tls_cacrl, .certificate = options->tls_cert,
		.key = options->tls_key, .shared = options->tls_psk,
	};
	snprintf(ret->port, sizeof(ret->port), "%d", options->port);
	ret->address = (struct server_address){
		.host = options->address, .port = ret->port, .socket = options->ps_socket,
		.timeout_ms = options->peer_timeout_s > INT_MAX / 1000 ? INT_MAX : options->peer_timeout_s * 1000, .tls = options->tls ? &ret->tls : NULL,
		.any_name = options->tls_no_cn_verify,
	};
}
