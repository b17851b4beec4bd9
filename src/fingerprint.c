/*-------------------------------------------------------------------------
 *
 * fingerprint.c
 *		Hashes of keys and requests.
 *
 * Both are SHA-256, from the server.  Nobody can find two keys or two
 * requests with one hash, whatever keys an application lets its clients
 * choose.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/cryptohash.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/numeric.h"

#include "fingerprint.h"

/* Hashes one buffer. */
static void
sha256(const char *data, Size length, uint8 hash[OI_FINGERPRINT_LENGTH])
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	if (context == NULL ||
		pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) data, length) < 0 ||
		pg_cryptohash_final(context, hash, OI_FINGERPRINT_LENGTH) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute SHA-256 hash: %s",
						pg_cryptohash_error(context))));
	pg_cryptohash_free(context);
}

/* Appends a length and that many bytes: no two sequences look the same. */
static void
append_counted(StringInfo buffer, const char *data, int length)
{
	uint32		count = pg_hton32((uint32) length);

	appendBinaryStringInfo(buffer, (const char *) &count, sizeof(count));
	appendBinaryStringInfo(buffer, data, length);
}

/* The hash under which a claim is stored: 16 bytes over scope and key. */
void
oi_fingerprint_key(const text *scope, const text *key, pg_uuid_t *hash)
{
	uint8		digest[OI_FINGERPRINT_LENGTH];
	StringInfoData buffer;

	initStringInfo(&buffer);
	append_counted(&buffer, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	append_counted(&buffer, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	sha256(buffer.data, buffer.len, digest);
	memcpy(hash->data, digest, UUID_LEN);
	pfree(buffer.data);
}

/* Appends a scalar with its type. */
static void
append_scalar(StringInfo buffer, const JsonbValue *value)
{
	char	   *number;

	switch (value->type)
	{
		case jbvNull:
			appendStringInfoChar(buffer, 'n');
			break;
		case jbvBool:
			appendStringInfoChar(buffer, value->val.boolean ? 't' : 'f');
			break;
		case jbvNumeric:
			/* without trailing zeroes: 1, 1.0 and 1e0 are one number */
			number = numeric_normalize(value->val.numeric);
			appendStringInfoChar(buffer, '#');
			append_counted(buffer, number, strlen(number));
			pfree(number);
			break;
		case jbvString:
			appendStringInfoChar(buffer, '"');
			append_counted(buffer, value->val.string.val,
						   value->val.string.len);
			break;
		default:
			elog(ERROR, "unexpected jsonb scalar type: %d", (int) value->type);
	}
}

/*
 * The fingerprint of a request.  Two values that jsonb calls equal have the
 * same: jsonb has its keys sorted and unique already.
 */
void
oi_fingerprint_request(Jsonb *request, uint8 hash[OI_FINGERPRINT_LENGTH])
{
	StringInfoData buffer;
	JsonbIterator *it = JsonbIteratorInit(&request->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	initStringInfo(&buffer);
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				/* a scalar at the top is an array in disguise */
				appendStringInfoChar(&buffer, value.val.array.rawScalar ? 'S' : '[');
				break;
			case WJB_BEGIN_OBJECT:
				appendStringInfoChar(&buffer, '{');
				break;
			case WJB_END_ARRAY:
				appendStringInfoChar(&buffer, ']');
				break;
			case WJB_END_OBJECT:
				appendStringInfoChar(&buffer, '}');
				break;
			default:
				append_scalar(&buffer, &value);
		}
	}
	sha256(buffer.data, buffer.len, hash);
	pfree(buffer.data);
}
