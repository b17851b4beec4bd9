/*-------------------------------------------------------------------------
 *
 * http_signature.c
 *		Signatures as Standard Webhooks has them.
 *
 * What is signed is "id.timestamp.body", by HMAC-SHA256 with the bytes of a
 * secret that is written as "whsec_" and base64 (standardwebhooks.com, version
 * 1.0.0 of the specification).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "common/base64.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "http_signature.h"

#define PREFIX "whsec_"

/* version of the scheme, which the signature begins with */
#define SCHEME "v1,"

struct HttpSecret
{
	int			len;
	uint8		bytes[FLEXIBLE_ARRAY_MEMBER];
};

/*
 * A secret from its text, in the current context.  Errors do not repeat it.
 */
HttpSecret *
http_secret_parse(const char *text)
{
	size_t		prefix = strlen(PREFIX);
	int			room;
	HttpSecret *secret;

	if (strncmp(text, PREFIX, prefix) == 0)
		text	  +=prefix;

	room = pg_b64_dec_len(strlen(text));
	secret = palloc(offsetof(HttpSecret, bytes) + room);
	/* bytes are char in some releases, uint8 in others */
	secret->len = pg_b64_decode(text, strlen(text), (void *) secret->bytes, room);
	if (secret->len <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("user mapping option \"secret\" is not valid base64")));
	return secret;
}

/*
 * Sign a message that is sent now.
 */
void
http_sign(const HttpSecret *secret, const char *id, const char *body, HttpSignature *signature)
{
	pg_hmac_ctx *hmac = pg_hmac_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	int			len;

	snprintf(signature->timestamp, sizeof(signature->timestamp), INT64_FORMAT,
			 (int64) time(NULL));
	if (hmac == NULL ||
		pg_hmac_init(hmac, secret->bytes, secret->len) < 0 ||
		pg_hmac_update(hmac, (const uint8 *) id, strlen(id)) < 0 ||
		pg_hmac_update(hmac, (const uint8 *) ".", 1) < 0 ||
		pg_hmac_update(hmac, (const uint8 *) signature->timestamp,
					   strlen(signature->timestamp)) < 0 ||
		pg_hmac_update(hmac, (const uint8 *) ".", 1) < 0 ||
		pg_hmac_update(hmac, (const uint8 *) body, strlen(body)) < 0 ||
		pg_hmac_final(hmac, digest, sizeof(digest)) < 0)
	{
		pg_hmac_free(hmac);
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not sign a message")));
	}
	pg_hmac_free(hmac);

	strcpy(signature->value, SCHEME);
	len = pg_b64_encode((void *) digest, sizeof(digest), signature->value + strlen(SCHEME),
						sizeof(signature->value) - strlen(SCHEME) - 1);
	Assert(len > 0);
	signature->value[strlen(SCHEME) + len] = '\0';
}
