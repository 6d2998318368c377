/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/own.h"
#include "wire/tls.h"

#define PKI             "/etc/pki/"
#define CA              PKI "CA/cacert.pem"
#define REVOKED         PKI "CA/cacrl.pem"
#define CERTIFICATE     PKI "criu/cert.pem"
#define KEY             PKI "criu/private/key.pem"

#define PSK_NAME      "ferry"
#define PSK_MIN_BYTES 16
#define PSK_MAX_BYTES 65536

struct psk { unsigned char key[SHA256_DIGEST_LENGTH]; };

struct tls_identity { SSL_CTX *context; bool shared; struct psk psk; };

struct tls { SSL *ssl; bool shared; };

/* ---- words ---- */

/* The oldest error that the library has noted: it is the cause of the others. */
static const char *reason(void)
{
	unsigned long code = ERR_get_error();
	const char *text = ERR_reason_error_string(code);

	ERR_clear_error();
	return text ? text : "unknown reason";
}

static int ended(struct transport *t, bool shaken, struct err *err)
{
	return err_set(err, ECONNRESET, shaken ? "%s closed the connection" : "TLS with %s: it closed the connection: has it TLS too?", t->peer);
}

static int broken(struct transport *t, int code, struct err *err)
{
	const struct tls *tls = t->layer_data;
	bool shaken = SSL_is_init_finished(tls->ssl);
	long verdict = SSL_get_verify_result(tls->ssl);
	int saved = errno;

	if (verdict != X509_V_OK && !shaken && !tls->shared) {
		ERR_clear_error();
		return err_set(err, EKEYREJECTED, "certificate of %s: %s", t->peer, X509_verify_cert_error_string(verdict));
	}
	if (code == SSL_ERROR_SYSCALL && ERR_peek_error() == 0) {
		errno = saved;
		return saved == 0 || saved == ECONNRESET || saved == EPIPE ? ended(t, shaken, err) : err_sys(err, "%s", t->peer);
	}
	if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
		ERR_clear_error();
		return ended(t, shaken, err);
	}
	if (tls->shared && !shaken)
		return err_set(err, EKEYREJECTED, "TLS with %s: %s: has it the same shared secret?", t->peer, reason());
	return err_set(err, EPROTO, "TLS with %s: %s", t->peer, reason());
}

/* ---- bytes ---- */

static ssize_t result(struct transport *t, int r, struct err *err)
{
	const struct tls *tls = t->layer_data;
	int code = SSL_get_error(tls->ssl, r);

	switch (code) {
	case SSL_ERROR_WANT_READ:
		t->wants = POLLIN;
		return -EAGAIN;
	case SSL_ERROR_WANT_WRITE:
		t->wants = POLLOUT;
		return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	default:
		return broken(t, code, err);
	}
}

/* Small pieces would be small records. */
static ssize_t tls_send(struct transport *t, const struct iovec *iov, int count, struct err *err)
{
	const struct tls *tls = t->layer_data;
	size_t done = 0;

	for (int i = 0; i < count; i++) {
		size_t n = 0;
		int r = 1;

		errno = 0;
		ERR_clear_error();
		if (iov[i].iov_len > 0)
			r = SSL_write_ex(tls->ssl, iov[i].iov_base, iov[i].iov_len, &n);
		if (r <= 0 && done > 0)
			break;          /* the next call says it again */
		if (r <= 0) {
			ssize_t why = result(t, r, err);

			return why == 0 ? ended(t, true, err) : why;
		}
		done += n;
		if (n < iov[i].iov_len)
			break;
	}
	return (ssize_t)done;
}

static ssize_t tls_receive(struct transport *t, const struct iovec *iov, int count, struct err *err)
{
	const struct tls *tls = t->layer_data;
	size_t n = 0;
	int r;

	for (int i = 0; i < count; i++) {
		if (iov[i].iov_len == 0)
			continue;
		errno = 0;
		ERR_clear_error();
		r = SSL_read_ex(tls->ssl, iov[i].iov_base, iov[i].iov_len, &n);
		return r > 0 ? (ssize_t)n : result(t, r, err);
	}
	return 0;
}

static void tls_close(struct transport *t)
{
	struct tls *tls = t->layer_data;

	/* no word of goodbye: who has said all reads a plain end as CRIU does, and whoever needs to know asks for a status */
	SSL_free(tls->ssl);
	free(tls);
}

static const struct transport_layer layer = { tls_send, tls_receive, tls_close };

/* ---- who is who ---- */

static int expect(SSL *ssl, const char *host, struct err *err)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
	uint8_t address[16];
	bool is_address = inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
	int ok = is_address ? X509_VERIFY_PARAM_set1_ip_asc(param, host) : SSL_set1_host(ssl, host);

	if (ok == 1 && !is_address)
		ok = (int)SSL_set_tlsext_host_name(ssl, host);
	return ok == 1 ? 0 : err_set(err, EINVAL, "%s as the name in a certificate: %s", host, reason());
}

static int load_revoked(SSL_CTX *context, const char *path, struct err *err)
{
	X509_STORE *store = SSL_CTX_get_cert_store(context);

	if (!path && access(REVOKED, R_OK) < 0)
		return 0;
	path = path ? path : REVOKED;
	if (X509_load_crl_file(X509_STORE_add_lookup(store, X509_LOOKUP_file()), path, X509_FILETYPE_PEM) <= 0)
		return err_set(err, EINVAL, "revoked certificates %s: %s", path, reason());
	X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
	return 0;
}

static int load(SSL_CTX *context, const struct tls_options *o, struct err *err)
{
	const char *ca = o->ca ? o->ca : CA, *certificate = o->certificate ? o->certificate : CERTIFICATE;
	const char *key = o->key ? o->key : KEY;

	if (SSL_CTX_load_verify_locations(context, ca, NULL) != 1)
		return err_set(err, EINVAL, "certificate of the CA %s: %s", ca, reason());
	if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1)
		return err_set(err, EINVAL, "certificate %s: %s", certificate, reason());
	if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
		return err_set(err, EINVAL, "key %s: %s", key, reason());
	return load_revoked(context, o->revoked, err);
}

/* ---- a secret that both have ---- */

static unsigned int give_psk(const SSL *ssl, unsigned char *key, unsigned int max)
{
	const struct psk *psk = SSL_get_app_data(ssl);

	if (!psk || max < sizeof(psk->key))
		return 0;
	memcpy(key, psk->key, sizeof(psk->key));
	return sizeof(psk->key);
}

static unsigned int client_psk(SSL *ssl, const char *hint, char *name, unsigned int name_max, unsigned char *key,
			       unsigned int max)
{
	(void)hint;
	return snprintf(name, name_max, PSK_NAME) < (int)name_max ? give_psk(ssl, key, max) : 0;
}

static unsigned int server_psk(SSL *ssl, const char *name, unsigned char *key, unsigned int max)
{
	return name && strcmp(name, PSK_NAME) == 0 ? give_psk(ssl, key, max) : 0;
}

/* Of the whole file, so that a line's end more on one side is another secret, and is told. */
static int read_psk(const char *path, struct psk *ret, struct err *err)
{
	own_fd fd = open(path, O_RDONLY | O_CLOEXEC);
	own_free unsigned char *bytes = mem_new(PSK_MAX_BYTES);
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "the shared secret %s", path);
	if (st.st_mode & 077)
		return err_set(err, EACCES, "the shared secret %s: others may read it (chmod 600)", path);
	n = read(fd, bytes, PSK_MAX_BYTES);
	if (n < PSK_MIN_BYTES || n == PSK_MAX_BYTES)
		return err_set(err, EINVAL, "the shared secret %s: from %d to %d bytes are fine (openssl rand -hex 32)", path, PSK_MIN_BYTES,
			       PSK_MAX_BYTES - 1);
	SHA256(bytes, (size_t)n, ret->key);
	OPENSSL_cleanse(bytes, (size_t)n);
	return 0;
}

/* Who shows a certificate instead is not believed: there is no CA, and one is asked for (SSL_VERIFY_PEER). */
static int load_shared(SSL_CTX *context, const char *path, struct psk *ret, struct err *err)
{
	if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") != 1)
		return err_set(err, EIO, "the shared secret: %s", reason());
	SSL_CTX_set_psk_client_callback(context, client_psk);
	SSL_CTX_set_psk_server_callback(context, server_psk);
	return read_psk(path, ret, err);
}

int tls_identity_load(const struct tls_options *options, struct tls_identity **ret, struct err *err)
{
	struct tls_identity *identity = mem_new(sizeof(*identity));
	SSL_CTX *context = SSL_CTX_new(TLS_method());
	int r;

	if (!context)
		mem_out();
	identity->context = context;
	SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
	SSL_CTX_set_options(context, SSL_OP_ENABLE_KTLS | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_num_tickets(context, 0);    /* nobody comes back */
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	identity->shared = options->shared != NULL;
	r = options->shared ? load_shared(context, options->shared, &identity->psk, err) : load(context, options, err);
	if (r < 0)
		tls_identity_free(identity);
	else
		*ret = identity;
	return r;
}

void tls_identity_free(struct tls_identity *identity)
{
	if (identity) {
		SSL_CTX_free(identity->context);
		OPENSSL_cleanse(&identity->psk, sizeof(identity->psk));
	}
	free(identity);
}

/* ---- the beginning ---- */

static int shake_hands(struct transport *t, struct err *err)
{
	const struct tls *tls = t->layer_data;

	for (;;) {
		int done, r;

		errno = 0;
		ERR_clear_error();
		done = SSL_do_handshake(tls->ssl);
		if (done == 1)
			return 0;
		r = (int)result(t, done, err);
		if (r == 0)
			return ended(t, false, err);
		if (r == -EAGAIN)
			r = transport_wait(t, false, err);
		if (r < 0)
			return r;
	}
}

static void tell(const struct transport *t, SSL *ssl)
{
	bool out = BIO_get_ktls_send(SSL_get_wbio(ssl)), in = BIO_get_ktls_recv(SSL_get_rbio(ssl));

	log_info("%s with %s, %s; the kernel %s", SSL_get_version(ssl), t->peer, SSL_get_cipher_name(ssl),
		 out && in ? "encrypts and decrypts" : out ? "encrypts" : in ? "decrypts" : "has no part in it");
}

int tls_start(struct transport *t, enum tls_side side, const struct tls_identity *identity, const char *host, struct err *err)
{
	struct tls *tls = mem_new(sizeof(*tls));
	int flags = fcntl(t->fd, F_GETFL), r = 0;

	tls->shared = identity->shared;
	tls->ssl = SSL_new(identity->context);
	if (!tls->ssl)
		mem_out();
	t->layer = &layer;
	t->layer_data = tls;
	if (identity->shared && side == TLS_ACCEPTED)   /* it counts as a session that goes on, which a server wants to know by this */
		(void)SSL_set_session_id_context(tls->ssl, (const unsigned char *)PSK_NAME, sizeof(PSK_NAME));
	if (identity->shared)           /* for the handshake alone */
		SSL_set_app_data(tls->ssl, (char *)(uintptr_t)&identity->psk);
	if (flags < 0 || fcntl(t->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_sys(err, "%s", t->peer);
	if (SSL_set_fd(tls->ssl, t->fd) != 1)
		return err_set(err, EIO, "TLS: %s", reason());
	if (side == TLS_ACCEPTED)
		SSL_set_accept_state(tls->ssl);
	else
		SSL_set_connect_state(tls->ssl);
	if (host && !tls->shared)
		r = expect(tls->ssl, host, err);
	if (r == 0)
		r = shake_hands(t, err);
	if (r == 0 && tls->shared && !SSL_session_reused(tls->ssl))
		return err_set(err, EKEYREJECTED, "%s has not shown that it has the shared secret", t->peer);
	if (r == 0)
		tell(t, tls->ssl);
	return r;
}
