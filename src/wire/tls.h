/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls.h - a transport's bytes, encrypted, between two ends that have shown one another their certificates.
 *
 * TLS 1.2 or 1.3, by OpenSSL.  Each end must have a certificate that the other
 * one's CA has signed and not revoked; the side that connected also checks that
 * the host it has connected to is in its certificate, as a name or an address.
 * With a shared file instead each shows that it has it (TLS 1.3, external PSK: its SHA-256).
 * Where the kernel can, it encrypts by itself.
 */
#pragma once
#include "wire/transport.h"

enum tls_side { TLS_CONNECTED, TLS_ACCEPTED };

/* Files, PEM.  NULL: where CRIU looks for them; of the revoked ones then only if it is there. */
struct tls_options {
	const char *ca, *revoked, *certificate, *key;
	const char *shared;             /* instead of all these: a file that both sides have, and nobody else can read */
};

/* What a side shows and believes, read once: before anybody connects. */
struct tls_identity;
int tls_identity_load(const struct tls_options *options, struct tls_identity **ret, struct err *err);
void tls_identity_free(struct tls_identity *identity);

/*
 * Shakes hands.  host: whose certificate is expected of who accepted; NULL: any name will do.  The identity may go
 * before t.  On failure t is to be closed.
 */
int tls_start(struct transport *t, enum tls_side side, const struct tls_identity *identity, const char *host, struct err *err);
